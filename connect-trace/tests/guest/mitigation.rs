//! The programs of a mitigation, compared with the sockets of this process, which is in the cgroup.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use connect_trace::{
    connect::Family,
    kernel::release,
    probes::{
        ProbeConfig, Probes,
        mitigation::{Method, MitigationConfig, ShareBy, address_words},
    },
};
use connect_trace_common::{
    MitigationCounters, RouteKey, RouteState,
    mitigation::{MOST_TRIES, WHOLE, is_in_share},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    Lacking, Test,
    trace::{cheapest_mode, config},
    truth::{Range, Sysctl},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        odd_ports_come_early_and_the_last_port_is_found,
        addresses_are_bound_in_turn,
        a_full_range_is_refused_with_the_reason,
    ],
    Newest: [
        other_calls_are_left_alone,
        reserved_ports_are_never_bound,
        each_namespace_has_its_own_range,
        a_socket_whose_connect_failed_can_be_used_again,
        a_bound_address_outlives_a_full_range,
        ports_that_others_have_bound_are_busy,
        bound_ports_are_lost_to_the_search_for_other_destinations,
        ports_in_time_wait_are_reused_if_none_is_free,
        threads_at_once_get_different_ports,
        two_mitigations_work_at_once,
        a_share_of_the_threads_is_mitigated,
        a_killed_mitigation_leaves_nothing,
        a_folder_that_is_no_cgroup_is_refused,
    ],
];

const ROOT: &str = "/sys/fs/cgroup";

/// Name of the programs in the kernel, which keeps 15 bytes.
const PROGRAM: &str = "mitigate_connec";

/// First port of the ranges of these tests, an even one: the kernel takes even ports first.
const LOW: u16 = 62_000;

/// A cgroup with this process in it. Dropping this value moves the process back and removes the cgroup.
struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    fn enter(name: &str) -> Result<Self> {
        let folder = Path::new(ROOT).join(name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("cgroup.procs"), "0").context("enter a cgroup")?;
        Ok(Self { folder })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Children of the probes too.
        let processes = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        let left: io::Result<()> = processes
            .lines()
            .try_for_each(|process| fs::write(Path::new(ROOT).join("cgroup.procs"), process));
        let mut folder = self.folder.as_path();
        while let Some(parent) = folder.parent().filter(|_| folder != Path::new(ROOT)) {
            if let Err(error) = left.as_ref().and(fs::remove_dir(folder).as_ref()) {
                eprintln!("cannot remove {}: {error}", folder.display());
            }
            folder = parent;
        }
    }
}

/// Returns the settings of the probes with a mitigation of all threads in a cgroup.
fn mitigating(cgroup: &Cgroup, method: Method) -> Result<ProbeConfig> {
    Ok(ProbeConfig {
        mitigation: Some(MitigationConfig {
            cgroups: vec![cgroup.folder.clone()],
            method,
            share: WHOLE,
            share_by: ShareBy::Thread,
        }),
        ..config(cheapest_mode()?)
    })
}

/// Attaches with select-test-repeat. Linux 5.10 must refuse it, and says so.
fn attach(config: &ProbeConfig) -> Result<Probes> {
    match Probes::attach(config) {
        Err(error) if release().starts_with("5.10.") => {
            let text = format!("{error:#}");
            assert!(text.contains("SO_REUSEADDR"), "{text}");
            assert!(text.contains("6.1"), "{text}");
            Err(Lacking("SO_REUSEADDR in programs at connect()").into())
        }
        attached => {
            let probes = attached?;
            assert!(!release().starts_with("5.10."));
            let untried = probes.notes().iter().find(|note| note.contains("tried"));
            assert_eq!(untried, None);
            Ok(probes)
        }
    }
}

fn select_test_repeat(cgroup: &Cgroup) -> Result<Probes> {
    attach(&mitigating(cgroup, Method::SelectTestRepeat)?)
}

fn counters(probes: &mut Probes) -> MitigationCounters {
    let counters = probes.mitigation().expect("it was asked for").counters();
    assert_eq!(counters.decided(), counters.calls, "{counters:?}");
    counters
}

/// Lets a mitigation act on a route of this thread's namespace.
fn act(probes: &mut Probes, to: SocketAddr, source: IpAddr) -> Result<RouteKey> {
    let (key, (_, source)) = (key(to)?, address_words(source));
    let mitigation = probes.mitigation().context("it was asked for")?;
    mitigation.set_route(key, RouteState { source, acts: 1 })?;
    Ok(key)
}

fn key(to: SocketAddr) -> Result<RouteKey> {
    let (family, destination) = address_words(to.ip());
    Ok(RouteKey {
        netns: u32::try_from(fs::metadata("/proc/thread-self/ns/net")?.ino())?,
        family,
        destination_port: to.port(),
        destination,
    })
}

const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Mapped];

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A listener, the address by which a socket of this family reaches it, and the source of its connections. The
/// listener's port lies outside of the ranges of these tests, and its queue takes all connections.
fn listen(family: Family) -> Result<(Socket, SocketAddr, IpAddr)> {
    let (to, source): (IpAddr, IpAddr) = match family {
        Family::V4 => (V4, V4),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        Family::Mapped => (Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), V4),
    };
    let domain = if source.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.listen(1_024)?;
    let port = socket
        .local_addr()?
        .as_socket()
        .context("an address")?
        .port();
    ensure!(port < LOW, "the port {port} lies in the range of the test");
    Ok((socket, SocketAddr::new(to, port), source))
}

fn socket(to: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(to), Type::STREAM, None)
}

fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = socket(to)?;
    socket.connect(&to.into())?;
    Ok(socket)
}

fn local(socket: &Socket) -> Result<SocketAddr> {
    socket.local_addr()?.as_socket().context("an address")
}

/// Connects this number of times, and returns the sockets with their ports.
fn connect_times(to: SocketAddr, times: u16) -> Result<(Vec<Socket>, Vec<u16>)> {
    let sockets: Vec<Socket> = (0..times)
        .map(|number| connect(to).with_context(|| format!("connection {number}")))
        .collect::<Result<_>>()?;
    let ports = sockets
        .iter()
        .map(|socket| Ok(local(socket)?.port()))
        .collect::<Result<_>>()?;
    Ok((sockets, ports))
}

/// Closes connections without a TIME_WAIT, so that their ports are free for the next test.
fn reset(sockets: Vec<Socket>) -> Result<()> {
    for socket in sockets {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Without a mitigation the first odd port comes when all even ones are used.
fn odd_ports_come_early_and_the_last_port_is_found((): ()) -> Result<()> {
    const PORTS: u16 = 200;
    let cgroup = Cgroup::enter("mitigation")?;
    let mut probes = select_test_repeat(&cgroup)?;
    let mut before = counters(&mut probes);
    for family in FAMILIES {
        let (_listener, to, source) = listen(family)?;
        let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
        let key = act(&mut probes, to, source)?;
        let (sockets, ports) = connect_times(to, PORTS)?;
        let first_odd = ports.iter().position(|port| port % 2 == 1);
        // A random port is even in half of all cases.
        assert!(
            first_odd.context("no odd port")? < 32,
            "{family:?}: {ports:?}"
        );
        let distinct: HashSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), usize::from(PORTS), "{family:?}");
        assert!(ports.iter().all(|&port| (LOW..LOW + PORTS).contains(&port)));
        let full = connect(to).map_err(|error| error.raw_os_error());
        assert_eq!(full.err(), Some(Some(libc::EADDRNOTAVAIL)), "{family:?}");

        let now = counters(&mut probes);
        let counted = now.since(&before);
        before = now;
        assert_eq!(counted.calls, u64::from(PORTS) + 1, "{counted:?}");
        assert_eq!(
            counted.applied + counted.exhausted,
            counted.calls,
            "{counted:?}"
        );
        assert_eq!(
            counted.tested,
            counted.applied + counted.taken,
            "{counted:?}"
        );
        // The last ports are found by the kernel's own search, most of the others by the programs.
        assert!(counted.exhausted > 1, "{counted:?}");
        assert!(counted.applied > u64::from(PORTS) * 3 / 4, "{counted:?}");
        assert_eq!(counted.last_errno, 0, "{counted:?}");
        assert!(counted.acting_ns > 0, "{counted:?}");
        let of_programs = sockets.iter().map(Socket::reuse_address);
        let of_programs: Vec<bool> = of_programs.collect::<io::Result<_>>()?;
        let bound = of_programs.iter().filter(|&&reuse| reuse).count();
        assert_eq!(bound as u64, counted.applied, "{counted:?}");

        let mitigation = probes.mitigation().context("it was asked for")?;
        let routes = mitigation.routes()?;
        let [(found, state, counts)] = routes[..] else {
            panic!("{routes:?}");
        };
        assert_eq!(found, key);
        assert_eq!(
            (counts.tested, counts.taken),
            (counted.tested, counted.taken)
        );
        // A change keeps the counts.
        let idle = RouteState { acts: 0, ..state };
        mitigation.set_route(key, idle)?;
        assert_eq!(mitigation.routes()?, [(key, idle, counts)]);
        mitigation.remove_route(&key)?;
        mitigation.remove_route(&key)?;
        assert_eq!(mitigation.routes()?, []);
        reset(sockets)?;
    }
    let (_listener, to, source) = listen(Family::V4)?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    act(&mut probes, to, source)?;
    probes.detach()?;
    let (sockets, ports) = connect_times(to, PORTS / 4)?;
    assert!(ports.iter().all(|port| port % 2 == 0), "{ports:?}");
    reset(sockets)
}

fn addresses_are_bound_in_turn((): ()) -> Result<()> {
    let sources: [Ipv4Addr; 3] = [
        [127, 0, 0, 2].into(),
        [127, 0, 0, 3].into(),
        [127, 0, 0, 4].into(),
    ];
    // Not one of this host's, and not for loopback destinations.
    let foreign: IpAddr = [192, 0, 2, 1].into();
    let mut all: Vec<IpAddr> = sources.map(IpAddr::from).to_vec();
    all.push(foreign);
    all.push(Ipv6Addr::LOCALHOST.into());
    let cgroup = Cgroup::enter("mitigation")?;
    let mut probes = Probes::attach(&mitigating(&cgroup, Method::Addresses(all))?)?;
    assert!(probes.notes().iter().all(|note| !note.contains("tried")));
    for family in FAMILIES {
        let before = counters(&mut probes);
        let (_listener, to, source) = listen(family)?;
        act(&mut probes, to, source)?;
        let (sockets, _) = connect_times(to, 60)?;
        let addresses: Vec<IpAddr> = sockets
            .iter()
            .map(|socket| Ok(local(socket)?.ip().to_canonical()))
            .collect::<Result<_>>()?;
        let used: HashSet<IpAddr> = addresses.iter().copied().collect();
        let expected: HashSet<IpAddr> = match family {
            Family::V6 => [Ipv6Addr::LOCALHOST.into()].into(),
            _ => sources.map(IpAddr::from).into(),
        };
        assert_eq!(used, expected, "{family:?}");
        if family != Family::V6 {
            // Each CPU has turns of its own.
            let times = |source: IpAddr| addresses.iter().filter(|&&used| used == source).count();
            let times = sources.map(|source| times(source.into()));
            let spread = times.iter().max().zip(times.iter().min());
            let cpus = thread::available_parallelism()?.get();
            assert!(
                spread.is_some_and(|(most, least)| most - least <= cpus),
                "{times:?}"
            );
        }
        let reused = |socket: &Socket| matches!(socket.reuse_address(), Ok(true));
        assert!(!sockets.iter().any(reused));

        // A socket that has an address keeps it.
        let own = socket(to)?;
        no_port(&own)?;
        own.bind(&SocketAddr::new(to.ip(), 0).into())?;
        assert_eq!(local(&own)?.port(), 0);
        own.connect(&to.into())?;
        assert_eq!(local(&own)?.ip(), to.ip());
        let counted = counters(&mut probes).since(&before);
        assert_eq!((counted.applied, counted.bound), (60, 1), "{counted:?}");
        reset(sockets)?;
    }
    let other = SocketAddr::new([198, 51, 100, 1].into(), 80);
    act(&mut probes, other, V4)?;
    // There is no route to it, whatever the source.
    let error = connect(other).map_err(|error| error.raw_os_error());
    assert_eq!(error.err(), Some(Some(libc::ENETUNREACH)));
    let counted = counters(&mut probes);
    let refused = (counted.refused, counted.last_errno);
    assert_eq!(refused, (1, libc::EADDRNOTAVAIL as u64), "{counted:?}");
    Ok(())
}

fn a_full_range_is_refused_with_the_reason((): ()) -> Result<()> {
    let cgroup = Cgroup::enter("mitigation")?;
    let error = Probes::attach(&mitigating(&cgroup, Method::FullRange)?).err();
    let text = format!(
        "{:#}",
        error.context("this kernel allows it: say so in the documentation")?
    );
    for words in [
        "IP_LOCAL_PORT_RANGE",
        "select-test-repeat",
        "connect-trace try",
    ] {
        assert!(text.contains(words), "{text}");
    }
    // The trial has left nothing.
    assert_eq!(programs()?, 0);
    for folder in fs::read_dir(ROOT)? {
        let name = folder?.file_name().to_string_lossy().into_owned();
        // The number of the process follows.
        let of_trial = name.strip_prefix("connect-trace-");
        let is_left = of_trial.is_some_and(|number| number.parse::<u32>().is_ok());
        assert!(!is_left, "{name}");
    }
    Ok(())
}

/// Returns the number of programs of mitigations that the kernel has.
fn programs() -> Result<usize> {
    let mut found = 0;
    for program in loaded_programs() {
        found += usize::from(program?.name() == PROGRAM.as_bytes());
    }
    Ok(found)
}

fn other_calls_are_left_alone((): ()) -> Result<()> {
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    let (_other_listener, other, _) = listen(Family::V4)?;
    let mut probes = select_test_repeat(&cgroup)?;
    let key = act(&mut probes, to, source)?;
    let none = counters(&mut probes);
    assert_eq!(none, MitigationCounters::default());
    let mut last = none;
    let mut since = |probes: &mut Probes| {
        let now = counters(probes);
        let since = now.since(&last);
        last = now;
        since
    };
    let one = MitigationCounters { calls: 1, ..none };

    let udp = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    udp.connect(&to.into())?;
    assert_eq!(
        since(&mut probes),
        MitigationCounters { not_tcp: 1, ..none }
    );

    let bound = socket(to)?;
    bound.bind(&SocketAddr::new(V4, 0).into())?;
    let port = local(&bound)?.port();
    bound.connect(&to.into())?;
    assert_eq!(local(&bound)?.port(), port);
    assert_eq!(since(&mut probes), MitigationCounters { bound: 1, ..one });

    let of_device = socket(to)?;
    of_device.bind_device(Some(b"lo"))?;
    of_device.connect(&to.into())?;
    assert_eq!(since(&mut probes), MitigationCounters { bound: 1, ..one });

    let (low, high) = (40_000, 40_009);
    let own_range =
        crate::socket::connect_within(low, high, crate::socket::Address::Any, to.port())?;
    if let Some(stream) = own_range {
        assert!((low..=high).contains(&stream.local_addr()?.port()));
        assert_eq!(
            since(&mut probes),
            MitigationCounters {
                own_range: 1,
                ..one
            }
        );
    } else {
        assert_eq!(since(&mut probes), none);
    }

    connect(other)?;
    assert_eq!(
        since(&mut probes),
        MitigationCounters { no_route: 1, ..one }
    );

    let mitigation = probes.mitigation().context("it was asked for")?;
    mitigation.set_route(key, RouteState::default())?;
    assert!(!connect(to)?.reuse_address()?);
    assert_eq!(since(&mut probes), MitigationCounters { idle: 1, ..one });

    // A process outside of the cgroup.
    drop(cgroup);
    connect(to)?;
    assert_eq!(since(&mut probes), none);
    Ok(())
}

fn reserved_ports_are_never_bound((): ()) -> Result<()> {
    const PORTS: u16 = 100;
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    // Across words of the kernel's bitmap, and single ports.
    let reserved =
        |port: u16| (LOW + 10..=LOW + 70).contains(&port) || port == LOW || port == LOW + 97;
    let text = format!("{LOW},{}-{},{}", LOW + 10, LOW + 70, LOW + 97);
    let _reserved = Sysctl::set("ip_local_reserved_ports", &text)?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    let mut probes = select_test_repeat(&cgroup)?;
    act(&mut probes, to, source)?;
    let free = (LOW..LOW + PORTS).filter(|&port| !reserved(port)).count();
    let (sockets, ports) = connect_times(to, u16::try_from(free)?)?;
    assert!(!ports.iter().any(|&port| reserved(port)), "{ports:?}");
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), free);
    let counted = counters(&mut probes);
    assert!(counted.reserved > counted.applied, "{counted:?}");
    assert!(counted.applied > 0, "{counted:?}");
    reset(sockets)
}

fn each_namespace_has_its_own_range((): ()) -> Result<()> {
    const PORTS: u16 = 64;
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    let mut probes = select_test_repeat(&cgroup)?;
    act(&mut probes, to, source)?;
    let (sockets, here) = connect_times(to, PORTS / 2)?;
    assert!(
        here.iter().all(|&port| (LOW..LOW + PORTS).contains(&port)),
        "{here:?}"
    );
    let before = counters(&mut probes);
    let there = thread::scope(|scope| {
        let probes = &mut probes;
        let other = scope.spawn(move || -> Result<Vec<u16>> {
            // SAFETY: the call takes no pointers.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            ensure!(unshared == 0, "{}", io::Error::last_os_error());
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()?;
            ensure!(up.success(), "ip: {up}");
            let _range = Range::read()?.set(LOW - 2_000, LOW - 1_000)?;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, to.port()))?;
            // The same destination, which is another route.
            let unknown = connect_times(to, 1)?;
            assert_eq!(counters(probes).no_route, before.no_route + 1);
            act(probes, to, source)?;
            let (_sockets, ports) = connect_times(to, PORTS / 2)?;
            drop((unknown, listener));
            Ok(ports)
        });
        other.join().expect("the thread does not panic")
    })?;
    assert!(
        there
            .iter()
            .all(|&port| (LOW - 2_000..=LOW - 1_000).contains(&port)),
        "{there:?}"
    );
    assert!(there.iter().any(|port| port % 2 == 1), "{there:?}");
    let counted = counters(&mut probes).since(&before);
    assert_eq!(counted.applied, u64::from(PORTS / 2), "{counted:?}");
    reset(sockets)
}

fn a_socket_whose_connect_failed_can_be_used_again((): ()) -> Result<()> {
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    let closed = {
        let (_listener, closed, _) = listen(Family::V4)?;
        closed
    };
    let mut probes = select_test_repeat(&cgroup)?;
    act(&mut probes, to, source)?;
    act(&mut probes, closed, source)?;
    let used = socket(to)?;
    let refused = used
        .connect(&closed.into())
        .map_err(|error| error.raw_os_error());
    assert_eq!(refused, Err(Some(libc::ECONNREFUSED)));
    let counted = counters(&mut probes);
    assert_eq!((counted.calls, counted.applied), (1, 1), "{counted:?}");
    // The socket keeps the port that it was given.
    let port = local(&used)?.port();
    assert_ne!(port, 0);
    used.connect(&to.into())?;
    assert_eq!(local(&used)?.port(), port);
    let counted = counters(&mut probes);
    assert_eq!(
        (counted.calls, counted.applied, counted.bound),
        (2, 1, 1),
        "{counted:?}"
    );
    Ok(())
}

/// The kernel forgets the address of a socket that it refuses a port, so the programs bind it again.
fn a_bound_address_outlives_a_full_range((): ()) -> Result<()> {
    const PORTS: u16 = 16;
    let cgroup = Cgroup::enter("mitigation")?;
    let mut probes = select_test_repeat(&cgroup)?;
    for family in FAMILIES {
        let before = counters(&mut probes);
        let (_listener, to, source) = listen(family)?;
        // Bound to an address without a port: for IPv4 another one than the route's source.
        let from: IpAddr = match family {
            Family::V4 => [127, 0, 0, 5].into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
            Family::Mapped => Ipv4Addr::from([127, 0, 0, 5]).to_ipv6_mapped().into(),
        };
        let connect_from = || -> Result<Socket> {
            let socket = socket(to)?;
            no_port(&socket)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            assert_eq!(local(&socket)?.port(), 0);
            socket.connect(&to.into())?;
            Ok(socket)
        };
        let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
        // Sockets that share their ports with nobody: the programs find them free for the destination, and busy.
        let busy: Vec<Socket> = (LOW..LOW + PORTS)
            .step_by(2)
            .map(|port| {
                let socket = socket(to)?;
                socket.bind(&SocketAddr::new(from, port).into())?;
                Ok(socket)
            })
            .collect::<Result<_>>()?;
        act(&mut probes, to, source)?;
        let sockets: Vec<Socket> = (0..PORTS / 2)
            .map(|_| connect_from())
            .collect::<Result<_>>()?;
        for socket in &sockets {
            assert_eq!(local(socket)?.ip(), from, "{family:?}");
        }
        let counted = counters(&mut probes).since(&before);
        assert!(counted.busy > 0 && counted.applied > 0, "{counted:?}");
        assert_eq!(
            counted.applied + counted.exhausted,
            u64::from(PORTS / 2),
            "{counted:?}"
        );
        let reused = sockets
            .iter()
            .filter(|socket| matches!(socket.reuse_address(), Ok(true)));
        assert_eq!(reused.count() as u64, counted.applied, "{counted:?}");
        reset(sockets)?;
        drop(busy);
    }
    Ok(())
}

/// Sets `IP_BIND_ADDRESS_NO_PORT`.
fn no_port(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let one: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of `one`.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Connections to another destination, which the kernel chose the ports of, keep these ports from being bound: the
/// programs try other ones, and then leave the call to the kernel.
fn ports_that_others_have_bound_are_busy((): ()) -> Result<()> {
    const PORTS: u16 = 40;
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    let (_other_listener, other, _) = listen(Family::V4)?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    let (others, _) = connect_times(other, PORTS)?;
    let mut probes = select_test_repeat(&cgroup)?;
    act(&mut probes, to, source)?;
    let (sockets, _) = connect_times(to, PORTS)?;
    let counted = counters(&mut probes);
    assert_eq!(counted.exhausted, u64::from(PORTS), "{counted:?}");
    assert_eq!(
        counted.busy,
        u64::from(PORTS) * u64::from(MOST_TRIES) - counted.taken,
        "{counted:?}"
    );
    assert_eq!(counted.last_errno, 0, "{counted:?}");
    assert!(
        sockets
            .iter()
            .all(|socket| matches!(socket.reuse_address(), Ok(false)))
    );
    reset(others)?;
    reset(sockets)
}

/// The kernel's search skips every port that was bound, for all destinations: docs/mitigate.md names it as a fault.
fn bound_ports_are_lost_to_the_search_for_other_destinations((): ()) -> Result<()> {
    const PORTS: u16 = 40;
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    let (_other_listener, other, _) = listen(Family::V4)?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    let mut probes = select_test_repeat(&cgroup)?;
    act(&mut probes, to, source)?;
    let (sockets, _) = connect_times(to, PORTS)?;
    let chosen_by_kernel = counters(&mut probes).exhausted;
    let mut others = Vec::new();
    let error = loop {
        match connect(other) {
            Ok(socket) => others.push(socket),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
    assert_eq!(others.len() as u64, chosen_by_kernel);
    reset(others)?;
    // A mitigation of the other destination shares them.
    act(&mut probes, other, source)?;
    let before = counters(&mut probes);
    let (others, _) = connect_times(other, PORTS / 4)?;
    let counted = counters(&mut probes).since(&before);
    assert_eq!(counted.exhausted, 0, "{counted:?}");
    reset(others)?;
    reset(sockets)
}

/// The kernel reuses a port in TIME_WAIT only if nobody has bound it: without the programs' own reuse, a mitigation would
/// use up the range.
fn ports_in_time_wait_are_reused_if_none_is_free((): ()) -> Result<()> {
    const PORTS: u16 = 40;
    let cgroup = Cgroup::enter("mitigation")?;
    let (listener, to, source) = listen(Family::V4)?;
    let _range = Range::read()?.set(LOW, LOW + PORTS - 1)?;
    let _reuse = Sysctl::set("tcp_tw_reuse", "1")?;
    let mut probes = select_test_repeat(&cgroup)?;
    let key = act(&mut probes, to, source)?;
    let (sockets, ports) = connect_times(to, PORTS)?;
    let bound: HashSet<u16> = sockets
        .iter()
        .zip(&ports)
        .filter(|(socket, _)| matches!(socket.reuse_address(), Ok(true)))
        .map(|(_, &port)| port)
        .collect();
    for client in sockets {
        let (server, _) = listener.accept()?;
        drop((client, server));
    }
    // The kernel and the programs wait a second, counted in whole ones.
    thread::sleep(Duration::from_secs(3));
    let mitigation = probes.mitigation().context("it was asked for")?;
    mitigation.set_route(key, RouteState::default())?;
    let mut found = Vec::new();
    while let Ok(socket) = connect(to) {
        found.push(socket);
    }
    assert_eq!(found.len(), usize::from(PORTS) - bound.len());
    act(&mut probes, to, source)?;
    let before = counters(&mut probes);
    // As many as 12 tries find.
    let (sockets, again) = connect_times(to, PORTS / 4)?;
    assert!(again.iter().all(|port| bound.contains(port)), "{again:?}");
    let counted = counters(&mut probes).since(&before);
    assert_eq!(counted.reused, u64::from(PORTS / 4), "{counted:?}");
    assert_eq!(counted.applied, counted.reused, "{counted:?}");
    reset(found)?;
    reset(sockets)
}

/// Between the test of a port and its use another thread must not take it.
fn threads_at_once_get_different_ports((): ()) -> Result<()> {
    const THREADS: u16 = 8;
    const TIMES: u16 = 1_000;
    // The kernel's search skips a bound port until its last TIME_WAIT has ended, whatever its destination; so these are not
    // the ports that the test before has left in TIME_WAIT.
    const FIRST: u16 = LOW + 1_000;
    let cgroup = Cgroup::enter("mitigation")?;
    let (listener, to, source) = listen(Family::V4)?;
    let mut probes = select_test_repeat(&cgroup)?;
    act(&mut probes, to, source)?;
    let _range = Range::read()?.set(FIRST, FIRST + 4 * THREADS - 1)?;
    let failures = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    let mut failures = Vec::new();
                    for _ in 0..TIMES {
                        match connect(to) {
                            Ok(socket) => drop(reset(vec![socket])),
                            Err(error) => failures.push(error.raw_os_error()),
                        }
                    }
                    failures
                })
            })
            .collect();
        scope.spawn(|| while listener.accept().is_ok() {});
        let all = threads.into_iter().map(|thread| thread.join());
        let failures: Vec<_> = all
            .flat_map(|failures| failures.expect("no panic"))
            .collect();
        // Ends the thread that accepts.
        listener.shutdown(Shutdown::Both).map(|()| failures)
    })?;
    let counted = counters(&mut probes);
    // A server can still refuse a connection whose port was that of one which it has not seen end.
    let without_port = failures
        .iter()
        .filter(|&&errno| errno == Some(libc::EADDRNOTAVAIL));
    assert_eq!(without_port.count(), 0, "{failures:?}, {counted:?}");
    // The others are left to the kernel, because the few ports are claimed.
    assert!(counted.applied > u64::from(4 * THREADS), "{counted:?}");
    Ok(())
}

/// The program of the child cgroup runs first; that of the parent finds a bound socket.
fn two_mitigations_work_at_once((): ()) -> Result<()> {
    let cgroup = Cgroup::enter("mitigation/child")?;
    let parent = Path::new(ROOT).join("mitigation");
    let (_listener, to, source) = listen(Family::V4)?;
    let mut of_child = select_test_repeat(&cgroup)?;
    let mut config = mitigating(&cgroup, Method::SelectTestRepeat)?;
    config.mitigation.as_mut().context("set above")?.cgroups = vec![parent];
    let mut of_parent = attach(&config)?;
    act(&mut of_parent, to, source)?;
    let (sockets, _) = connect_times(to, 10)?;
    assert_eq!(counters(&mut of_child).no_route, 10);
    assert_eq!(counters(&mut of_parent).applied, 10);
    act(&mut of_child, to, source)?;
    let (more, _) = connect_times(to, 10)?;
    assert_eq!(counters(&mut of_child).applied, 10);
    assert_eq!(counters(&mut of_parent).bound, 10);
    // Two on the same cgroup.
    let mut again = select_test_repeat(&cgroup)?;
    connect(to)?;
    assert_eq!(counters(&mut again).bound, 1);
    drop((of_child, of_parent, again));
    assert_eq!(programs()?, 0);
    reset(sockets)?;
    reset(more)
}

fn a_share_of_the_threads_is_mitigated((): ()) -> Result<()> {
    const SHARE: u32 = WHOLE / 2;
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    let mut config = mitigating(&cgroup, Method::SelectTestRepeat)?;
    config.mitigation.as_mut().context("set above")?.share = SHARE;
    let mut probes = attach(&config)?;
    act(&mut probes, to, source)?;
    let mut members = 0;
    for _ in 0..40 {
        let one = thread::spawn(move || -> Result<_> {
            // SAFETY: the call has no preconditions.
            let thread = unsafe { libc::gettid() };
            Ok((u64::try_from(thread)?, connect(to)?.reuse_address()?))
        });
        let (thread, mitigated) = one.join().expect("the thread does not panic")?;
        assert_eq!(mitigated, is_in_share(thread, SHARE), "{thread}");
        members += u64::from(mitigated);
    }
    let counted = counters(&mut probes);
    assert_eq!(
        (counted.applied, counted.other_share),
        (members, 40 - members),
        "{counted:?}"
    );
    assert!((1..40).contains(&members), "{members}");
    drop(probes);

    // A cgroup belongs as a whole.
    let id = fs::metadata(&cgroup.folder)?.ino();
    let mitigation = config.mitigation.as_mut().context("set above")?;
    mitigation.share_by = ShareBy::Cgroup;
    let mut probes = attach(&config)?;
    act(&mut probes, to, source)?;
    for _ in 0..4 {
        let one = thread::spawn(move || -> Result<_> { Ok(connect(to)?.reuse_address()?) });
        let mitigated = one.join().expect("the thread does not panic")?;
        assert_eq!(mitigated, is_in_share(id, SHARE), "{id}");
    }
    Ok(())
}

fn a_killed_mitigation_leaves_nothing((): ()) -> Result<()> {
    let cgroup = Cgroup::enter("mitigation")?;
    let (_listener, to, source) = listen(Family::V4)?;
    drop(select_test_repeat(&cgroup)?);
    let (mut read, mut write) = io::pipe()?;
    // The child of a process with one thread may do everything.
    assert_eq!(fs::read_dir("/proc/self/task")?.count(), 1);
    // SAFETY: see above.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let attached = select_test_repeat(&cgroup).and_then(|mut probes| {
            act(&mut probes, to, source)?;
            Ok(probes)
        });
        let told = match &attached {
            Ok(_) => "ready".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let _ = write.write_all(told.as_bytes());
        drop(write);
        loop {
            thread::park();
        }
    }
    drop(write);
    let mut told = String::new();
    read.read_to_string(&mut told)?;
    let mitigated = connect(to)?.reuse_address()?;
    let loaded = programs()?;
    let mut status = 0;
    // SAFETY: the process is our own child, and there is room for its status.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, &raw mut status, 0);
    }
    assert_eq!((told.as_str(), mitigated, loaded), ("ready", true, 2));
    // The kernel frees a program a moment after its last link.
    crate::process::until("the programs are gone", || {
        Ok((programs()? == 0).then_some(()))
    })?;
    assert!(!connect(to)?.reuse_address()?);
    Ok(())
}

fn a_folder_that_is_no_cgroup_is_refused((): ()) -> Result<()> {
    let cgroup = Cgroup::enter("mitigation")?;
    let mut config = mitigating(&cgroup, Method::Addresses(vec![V4]))?;
    let folder = std::env::temp_dir().join(format!("no-cgroup-{}", process::id()));
    fs::create_dir_all(&folder)?;
    config.mitigation.as_mut().context("set above")?.cgroups = vec![folder.clone()];
    let error = Probes::attach(&config).err().context("attached")?;
    let text = format!("{error:#}");
    assert!(text.contains("is not a cgroup of version 2"), "{text}");
    fs::remove_dir(folder)?;
    Ok(())
}
