//! `connect-trace ports` on every kernel, compared with `ss` and with the sockets that the test made.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    Test,
    process::{Process, until},
    program::{assert_fits_a_terminal, connect_trace},
    service::Service,
    ss,
    truth::{Range, Sysctl},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        each_port_of_a_route_has_the_use_that_was_made_of_it,
        a_range_that_is_used_up_is_shown_so,
        another_namespace_has_its_own_range_and_routes,
        a_service_knows_who_held_a_port_in_time_wait,
    ],
];

/// A range above the kernel's default range, whose ports bind() gives to no socket.
const LOW: u16 = 62_400;
const PORTS: u16 = 60;

/// Returns the objects that the command prints.
fn ports(arguments: &str) -> Result<Vec<Value>> {
    let command = connect_trace(&format!("ports {arguments} --format json"));
    let ended = Process::start(command)?.end()?.successful()?;
    let objects = ended.stdout.lines().map(serde_json::from_str);
    objects.collect::<Result<_, _>>().context(ended.stdout)
}

/// Returns the object of the only route.
fn route(arguments: &str) -> Result<Value> {
    let mut objects = ports(arguments)?;
    ensure!(objects.len() == 1, "{objects:?}");
    Ok(objects.remove(0))
}

/// Listens on a port outside the range of the test.
fn listen(address: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((address, 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    ensure!(!(LOW..LOW + PORTS).contains(&address.port()), "{address}");
    Ok((listener, address))
}

/// Connects from a port.
fn connect_from(source: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket
        .bind(&source.into())
        .with_context(|| source.to_string())?;
    socket.connect(&to.into()).with_context(|| to.to_string())?;
    Ok(socket.into())
}

fn each_port_of_a_route_has_the_use_that_was_made_of_it((): ()) -> Result<()> {
    for (address, low) in [("127.0.0.1", LOW), ("::1", LOW + 200)] {
        let (listener, to) = listen(address)?;
        let (_other, elsewhere) = listen(address)?;
        let _range = Range::read()?.set(low, low + PORTS - 1)?;
        let _reserved = Sysctl::set(
            "ip_local_reserved_ports",
            &format!("{},{}-{}", low + 3, low + 8, low + 11),
        )?;
        let _refusing = Sysctl::set("tcp_tw_reuse", "0")?;
        let mut expected: BTreeMap<u16, String> = [3, 8, 9, 10, 11]
            .map(|port| (low + port, "reserved".to_owned()))
            .into();
        let _in_range = TcpListener::bind((address, low + 14))?;
        let _of_any = TcpListener::bind(("0.0.0.0", low + 17))?;
        expected.extend([14, 17].map(|port| (low + port, "listener".to_owned())));

        let mut held = Vec::new();
        let mut ended = 0;
        for number in 0..12 {
            // An IPv6 socket with a v4-mapped address has the ports of IPv4.
            let mapped = match to.ip() {
                IpAddr::V4(ip) if number % 4 == 1 => {
                    SocketAddr::from((ip.to_ipv6_mapped(), to.port()))
                }
                _ => to,
            };
            let client = TcpStream::connect(mapped)?;
            let (server, _) = listener.accept()?;
            let port = client.local_addr()?.port();
            if number % 3 == 0 {
                // The side that closes first keeps the port in TIME_WAIT.
                drop(client);
                drop(server);
                ended += 1;
                expected.insert(port, "time_wait".to_owned());
            } else {
                held.push(client);
                held.push(server);
                expected.insert(port, "open".to_owned());
            }
        }
        // Neither takes a port of the range from this route.
        held.push(connect_from(SocketAddr::new(to.ip(), low - 7), to)?);
        held.push(listener.accept()?.0);
        held.push(TcpStream::connect(elsewhere)?);

        let object = route(&format!("{to} --source {}", to.ip()))?;
        ss::compare(&object, &ss::listening()?)?;
        assert_eq!(ss::uses(&object)?, expected, "{object}");
        assert_eq!(object["range"], serde_json::json!([low, low + PORTS - 1]));
        assert_eq!(
            object["states"],
            serde_json::json!({ "ESTAB": 9, "TIME-WAIT": ended })
        );
        assert_eq!(object["out_of_range"], 1, "{object}");
        let holders = object["holders"].as_array().context("holders")?;
        assert_eq!(holders.len(), 1, "{object}");
        assert_eq!(holders[0]["pid"], std::process::id(), "{object}");
        assert_eq!(
            (&holders[0]["open"], &holders[0]["time_wait"]),
            (&9.into(), &0.into())
        );
        assert!(holders[0]["cgroup_id"].is_u64(), "{object}");
        assert_eq!(
            object["unknown"],
            serde_json::json!({ "open": 0, "time_wait": ended })
        );

        let ended = Process::start(connect_trace(&format!("ports {to}")))?
            .end()?
            .successful()?;
        assert_fits_a_terminal(&ended);
        assert!(ended.stdout.contains("12 of the 60 ports"), "{ended}");
        assert!(
            ended.stdout.contains(&format!("\n  even {low} ")),
            "{ended}"
        );
    }
    Ok(())
}

fn a_range_that_is_used_up_is_shown_so((): ()) -> Result<()> {
    let (_listener, to) = listen("127.0.0.1")?;
    let low = LOW + 400;
    let _range = Range::read()?.set(low, low + PORTS - 1)?;
    let mut held = Vec::new();
    let error = loop {
        match TcpStream::connect(to) {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    let object = route(&format!(":{}", to.port()))?;
    ss::compare(&object, &ss::listening()?)?;
    for lane in ["even", "odd"] {
        assert_eq!(object[lane]["uses"]["open"], PORTS / 2, "{object}");
        assert_eq!(object[lane]["uses"]["free"], 0, "{object}");
    }
    // The fullest route comes first.
    let first = ports("--top 1")?;
    assert_eq!(first[0]["destination"], to.to_string(), "{first:?}");
    Ok(())
}

fn another_namespace_has_its_own_range_and_routes((): ()) -> Result<()> {
    let (low, high) = (20_000, 20_099);
    let made = thread::spawn(move || -> Result<_> {
        // SAFETY: the call takes no pointers.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        ensure!(unshared == 0, "{}", io::Error::last_os_error());
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()?;
        ensure!(up.success(), "ip: {up}");
        std::mem::forget(Range::read()?.set(low, high)?);
        let [one, other] =
            [1, 2].map(|last| TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 4_000)));
        let (one, other) = (one?, other?);
        let mut held = Vec::new();
        for (to, count) in [(&one, 7), (&other, 3)] {
            for _ in 0..count {
                held.push(TcpStream::connect(to.local_addr()?)?);
            }
        }
        Ok((File::open("/proc/thread-self/ns/net")?, [one, other], held))
    });
    let (namespace, _listeners, _held) = made.join().expect("the thread does not panic")?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let found = ports(&format!("--netns {path}"))?;
    assert_eq!(found.len(), 2, "{found:?}");
    for (object, (last, count)) in found.iter().zip([(1, 7), (2, 3)]) {
        let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 4_000));
        assert_eq!(object["destination"], to.to_string(), "{object}");
        assert_eq!(object["states"], serde_json::json!({ "ESTAB": count }));
        assert_eq!(object["range"], serde_json::json!([low, high]));
        assert_eq!(object["netns"], namespace.metadata()?.ino(), "{object}");
        assert_eq!(object["holders"][0]["pid"], std::process::id(), "{object}");
    }
    let here = ports(":4000")?;
    assert!(here.is_empty(), "{here:?}");

    let mut command = Command::new("sleep");
    command.arg("300");
    // SAFETY: the call is a system call without pointers.
    unsafe {
        command.pre_exec(|| match libc::unshare(libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let process = Process::start(command)?;
    let inode = std::fs::metadata(format!("/proc/{}/ns/net", process.pid()))?.ino();
    let said = format!("of network namespace {inode}.");
    until("the namespace of the process is shown", || {
        let arguments = format!("ports --netns {}", process.pid());
        let ended = Process::start(connect_trace(&arguments))?
            .end()?
            .successful()?;
        Ok(ended.stdout.contains(&said).then_some(()))
    })
}

fn a_service_knows_who_held_a_port_in_time_wait((): ()) -> Result<()> {
    let (listener, to) = listen("127.0.0.1")?;
    let low = LOW + 600;
    let _range = Range::read()?.set(low, low + PORTS - 1)?;
    let _refusing = Sysctl::set("tcp_tw_reuse", "0")?;
    let ended = || -> Result<()> {
        drop(TcpStream::connect(to)?);
        drop(listener.accept()?);
        Ok(())
    };
    ended()?;
    let service = Service::start("--ports")?;
    let mut held = Vec::new();
    for _ in 0..5 {
        ended()?;
        held.push(TcpStream::connect(to)?);
        held.push(listener.accept()?.0);
    }
    let object = route(&format!("{to} --service {}", service.address))?;
    ss::compare(&object, &ss::listening()?)?;
    assert_eq!(
        object["unknown"],
        serde_json::json!({ "open": 0, "time_wait": 1 }),
        "only that of before the service: {object}"
    );
    let holders = object["holders"].as_array().context("holders")?;
    assert_eq!(holders.len(), 1, "{object}");
    for (field, expected) in [
        ("pid", Value::from(std::process::id())),
        ("open", 5.into()),
        ("time_wait", 5.into()),
        ("strategy", "default".into()),
    ] {
        assert_eq!(holders[0][field], expected, "{field}: {object}");
    }
    let text = Process::start(connect_trace(&format!(
        "ports {to} --service {}",
        service.address
    )))?;
    let text = text.end()?.successful()?;
    assert_fits_a_terminal(&text);
    assert!(text.stdout.contains("  default "), "{text}");
    service.end()?;

    // Without --ports, it has no holders.
    let service = Service::start("")?;
    let refused = connect_trace(&format!("ports {to} --service {}", service.address));
    let refused = Process::start(refused)?.end()?;
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(
        refused.stderr.contains("start it with --ports"),
        "{refused}"
    );
    service.end()?;
    Ok(())
}
