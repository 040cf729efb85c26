//! `connect-trace explain` compared with the ports that the kernel then chooses, one connect() after the other, and
//! with the number of ports that each search went through.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    Test,
    load::FullRange,
    output::Lines,
    process::Process,
    program::{connect_trace, report, tracing},
    socket::{Address, try_within},
    truth::{Range, Sysctl},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        connects_take_the_explained_ports_in_the_explained_order,
        an_explained_port_in_time_wait_is_reused_or_refused,
        the_range_of_a_socket_is_searched_as_explained,
    ],
];

/// A range above the kernel's default range, whose ports bind() gives to no socket.
const LOW: u16 = 62_000;
const PORTS: u16 = 32;

/// Returns the explanation.
fn explain(arguments: &str) -> Result<Value> {
    let command = connect_trace(&format!("explain {arguments} --format json"));
    let ended = Process::start(command)?.end()?.successful()?;
    serde_json::from_str(&ended.stdout).context(ended.stdout)
}

/// Returns the ports that searches find, of each pass.
fn available(explained: &Value) -> Result<Vec<BTreeSet<u16>>> {
    let passes = explained["passes"].as_array().context("passes")?;
    let step = if explained["by_parity"] == true { 2 } else { 1 };
    let ports = |pass: &Value| -> Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        for run in pass["runs"].as_array().context("runs")? {
            if ["free", "time_wait_reused"].contains(&run["state"].as_str().context("state")?) {
                let [first, last] = ["first", "last"].map(|end| run[end].as_u64());
                let ends = first.zip(last).context("ends")?;
                ports.extend((ends.0 as u16..=ends.1 as u16).step_by(step));
            }
        }
        Ok(ports)
    };
    passes.iter().map(ports).collect()
}

/// Returns the least and the most ports that a search goes through to a port.
fn scanned(explained: &Value, port: u16) -> Result<(u64, u64)> {
    let of_pass = |pass: &Value| pass["runs"].as_array().cloned().unwrap_or_default();
    let mut runs = explained["passes"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(of_pass);
    let parity = u64::from(port) % 2;
    let run = runs.find(|run| {
        let end = |end: &str| run[end].as_u64().unwrap_or_default();
        (end("first")..=end("last")).contains(&u64::from(port))
            && (explained["by_parity"] == false || end("first") % 2 == parity)
    });
    let run = run.with_context(|| format!("no run with {port}: {explained}"))?;
    let pair = run["scanned"][0].as_u64().zip(run["scanned"][1].as_u64());
    pair.with_context(|| format!("{port} cannot be found: {explained}"))
}

/// Connects until there is no port, asks for an explanation before each connect(), and compares the two; the search is
/// traced. Returns the connections.
fn follow(arguments: &str, connect: impl Fn() -> io::Result<TcpStream>) -> Result<Vec<TcpStream>> {
    let process = tracing("--format json --events")?;
    let first = available(&explain(arguments)?)?;
    let mut held: Vec<TcpStream> = Vec::new();
    let mut told: Vec<(Option<u16>, Value)> = Vec::new();
    let left = loop {
        let explained = explain(arguments)?;
        let passes = available(&explained)?;
        match connect() {
            Ok(stream) => {
                let port = stream.local_addr()?.port();
                // Fails unless a search finds the port from any start: no port of the second pass is found before the
                // first is used up.
                scanned(&explained, port)?;
                told.push((Some(port), explained));
                held.push(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                ensure!(
                    explained["searches"]["none"].as_f64() > Some(0.0),
                    "{explained}"
                );
                told.push((None, explained));
                break all(&passes);
            }
            Err(error) => return Err(error).context("connect"),
        }
    };
    let found: BTreeSet<u16> = told.iter().filter_map(|(port, _)| *port).collect();
    // In a range of an odd number of ports, most searches by parity miss either the first or the last one.
    assert!(left.len() <= 1, "{left:?}");
    assert_eq!(
        &found | &left,
        all(&first),
        "all ports that were free are found"
    );
    assert!(found.len() > 10, "{found:?}");

    process.signal(libc::SIGINT)?;
    let events = Lines::of(&report(process)?)?.events;
    assert_eq!(events.len(), told.len());
    let mut known = 0;
    for (event, (port, explained)) in events.iter().zip(&told) {
        assert_eq!(
            event["source_port"].as_u64(),
            port.map(u64::from),
            "{event}"
        );
        let Some(of_event) = event["scanned"].as_u64() else {
            continue;
        };
        known += 1;
        match port {
            Some(port) => {
                let (least, most) = scanned(explained, *port)?;
                assert!((least..=most).contains(&of_event), "{event} {explained}");
            }
            None => assert_eq!(
                explained["searches"]["scanned_most"], of_event,
                "{explained}"
            ),
        }
    }
    assert!(known > told.len() / 2, "{known} of {}", told.len());
    Ok(held)
}

/// Returns the ports of all passes.
fn all(passes: &[BTreeSet<u16>]) -> BTreeSet<u16> {
    passes.iter().flatten().copied().collect()
}

/// Listens on a port outside the range of the test.
fn listen(address: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((address, 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    ensure!(!(LOW..LOW + PORTS).contains(&address.port()), "{address}");
    Ok((listener, address))
}

fn connects_take_the_explained_ports_in_the_explained_order((): ()) -> Result<()> {
    // An odd number of ports on one of the two: the last one then takes the place of the first.
    for (address, low, ports) in [("127.0.0.1", LOW, PORTS), ("::1", LOW + 101, 25)] {
        let (_listener, destination) = listen(address)?;
        let (_other, other) = listen(address)?;
        let _range = Range::read()?.set(low, low + ports - 1)?;
        let _reserved = Sysctl::set(
            "ip_local_reserved_ports",
            &format!("{},{}-{}", low + 3, low + 8, low + 11),
        )?;
        let _in_range = TcpListener::bind((address, low + 14)).context("in the range")?;
        let _of_any = TcpListener::bind(("0.0.0.0", low + 17)).context("in the range")?;
        // Connections to another destination take no port.
        let elsewhere: Vec<TcpStream> = (0..10)
            .map(|_| TcpStream::connect(other))
            .collect::<io::Result<_>>()?;
        let explained = explain(&destination.to_string())?;
        for (state, count) in [("reserved", 5), ("bound", 2), ("taken", 0)] {
            let of = |pass: usize| explained["passes"][pass]["states"][state].as_u64();
            assert_eq!(
                of(0).zip(of(1)).map(|(a, b)| a + b),
                Some(count),
                "{explained}"
            );
        }
        let held = follow(&destination.to_string(), || TcpStream::connect(destination))?;
        let is_even = ports % 2 == 0;
        assert!(
            !is_even || held.len() == usize::from(ports) - 7,
            "{}",
            held.len()
        );
        drop(elsewhere);
    }
    Ok(())
}

fn an_explained_port_in_time_wait_is_reused_or_refused((): ()) -> Result<()> {
    let (listener, destination) = listen("127.0.0.1")?;
    let _range = Range::read()?.set(LOW + 200, LOW + 200 + PORTS - 1)?;
    let refusing = Sysctl::set("tcp_tw_reuse", "0")?;
    // The side that closes first keeps the port in TIME_WAIT.
    for _ in 0..6 {
        let client = TcpStream::connect(destination)?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
    }
    // Some kernels count in whole seconds, so that the wait may take two.
    thread::sleep(Duration::from_millis(2_500));
    let destination_text = destination.to_string();
    let count = |state: &str| -> Result<u64> {
        let explained = explain(&destination_text)?;
        let count = explained["passes"][0]["states"][state].as_u64();
        count.with_context(|| explained.to_string())
    };
    assert_eq!((count("time_wait")?, count("time_wait_reused")?), (6, 0));
    let mut held = follow(&destination_text, || TcpStream::connect(destination))?;
    assert_eq!(held.len(), usize::from(PORTS) - 6);
    drop(refusing);
    let _reusing = Sysctl::set("tcp_tw_reuse", "2")?;
    assert_eq!((count("time_wait")?, count("time_wait_reused")?), (0, 6));
    for _ in 0..6 {
        let explained = explain(&destination_text)?;
        let again = TcpStream::connect(destination)?;
        let port = again.local_addr()?.port();
        assert!(
            available(&explained)?[0].contains(&port),
            "{port}: {explained}"
        );
        held.push(again);
    }
    Ok(())
}

fn the_range_of_a_socket_is_searched_as_explained((): ()) -> Result<()> {
    let (low, high) = (LOW + 300, LOW + 300 + 24);
    let (_listener, destination) = listen("127.0.0.1")?;
    let usual = Range::read()?;
    usual.extend_to(high)?;
    let arguments = format!("{destination} --local-range {low}-{high}");
    let kernel = FullRange::here()?;
    if kernel == FullRange::Refused {
        let ended = Process::start(connect_trace(&format!("explain {arguments}")))?.end()?;
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        assert!(ended.stderr.contains("IP_LOCAL_PORT_RANGE"), "{ended}");
        return Ok(());
    }
    let explained = explain(&arguments)?;
    assert_eq!(
        explained["by_parity"],
        kernel == FullRange::KeepsStep,
        "{explained}"
    );
    assert_eq!(explained["range"], serde_json::json!([low, high]));
    follow(&arguments, || {
        try_within(low, high, Address::Any, destination.port())
    })?;
    Ok(())
}
