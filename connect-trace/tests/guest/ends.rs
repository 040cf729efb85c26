//! Connections after their connect(), compared with the actions of both sides of each connection.

use std::{
    fs,
    io::{Read as _, Write as _},
    mem,
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::{self, Command},
    ptr, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::{
    connect::{ConnectionEvent, Family, Fate, Wait},
    filter::Filters,
    probes::{ProbeConfig, attach::AttachMode, smallest_ring_buffer_bytes},
};

use connect_trace_common::EndRecord;

use crate::{
    Test,
    output::Lines,
    process::{Process, until},
    program::{report, tracing},
    trace::{Session, Trace, config},
    truth::truth,
};

pub const TESTS_OF_MODES: &[Test<AttachMode>] = crate::tests![
    All: [
        each_connection_ends_as_its_two_sides_made_it,
        connections_that_fail_have_the_error_of_the_program,
        a_connection_whose_syn_was_lost_counts_it,
        a_connection_that_began_before_is_counted_apart,
        every_connection_of_truth_ends,
    ],
    OldestAndNewest: [
        connections_that_are_left_out_are_not_followed,
        connections_beyond_the_most_are_counted,
        events_of_connections_beyond_a_full_ring_buffer_are_counted,
    ],
];

pub const TESTS: &[Test<()>] = crate::tests![
    Oldest: [
        events_reports_and_recordings_of_connections_agree,
    ],
];

const FAMILIES: [Family; 3] = [Family::V4, Family::V6, Family::Mapped];

/// Returns a configuration that follows connections.
fn following(mode: AttachMode) -> ProbeConfig {
    ProbeConfig {
        max_connections: Some(1_024),
        ..config(mode)
    }
}

/// From Linux 7.0 on, a program at a tracepoint can be preempted, and the kernel skips it meanwhile: a test is repeated
/// until none was skipped.
const UNSKIPPED: &str = "no change of state was skipped";

/// Ends a trace; returns `None` if the kernel skipped the program at a change of state, which the account must say.
fn seen(session: Session) -> Result<Option<Trace>> {
    let trace = session.end()?;
    let account = trace.ends.context("connections were followed")?;
    if account.skipped.unwrap_or(0) == 0 {
        return Ok(Some(trace));
    }
    assert!(account.adds_up() && !account.complete(), "{account:#?}");
    Ok(None)
}

/// A connection that was made here.
struct Made {
    /// Its listener, which no other connection of its family has; a source port may come again.
    listener: TcpListener,
    port: u16,
    family: Family,
    /// How it ended after a successful handshake.
    fate: Fate,
}

/// A new listener on loopback.
fn listener(family: Family) -> Result<TcpListener> {
    let address: IpAddr = match family {
        Family::V4 => [127, 0, 0, 1].into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
        // Takes IPv4 too.
        Family::Mapped => Ipv6Addr::UNSPECIFIED.into(),
    };
    TcpListener::bind((address, 0)).context("cannot listen")
}

/// Returns the address to which a socket of this family connects.
fn address(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([127, 0, 0, 1], port).into(),
        Family::V6 => (Ipv6Addr::LOCALHOST, port).into(),
        Family::Mapped => (Ipv6Addr::from_bits(0xffff_7f00_0001), port).into(),
    }
}

/// A socket that connects, blocking or not, and its local port.
fn connecting(family: Family, port: u16, flags: i32) -> Result<(TcpStream, u16, Option<i32>)> {
    let to = address(family, port);
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 | Family::Mapped => libc::AF_INET6,
    };
    // SAFETY: the call takes no pointers.
    let socket = unsafe { libc::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) };
    ensure!(socket >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // One retransmission of the SYN: three seconds until the kernel gives up.
    option(&socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1)?;
    let error = raw_connect(&socket, to);
    let stream = TcpStream::from(socket);
    let local = stream.local_addr().map_or(0, |local| local.port());
    Ok((stream, local, error))
}

/// Calls connect(), and returns its errno.
fn raw_connect(socket: &OwnedFd, to: SocketAddr) -> Option<i32> {
    let (storage, length) = match to {
        SocketAddr::V4(to) => {
            let address = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(to.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            stored(&address)
        }
        SocketAddr::V6(to) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: to.ip().octets(),
                },
                sin6_scope_id: 0,
            };
            stored(&address)
        }
    };
    // SAFETY: the address has this length.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), length) };
    (answer < 0)
        .then(|| std::io::Error::last_os_error().raw_os_error())
        .flatten()
}

/// Copies an address into the storage for any address.
fn stored<T>(address: &T) -> (libc::sockaddr_storage, u32) {
    // SAFETY: the storage is plain data and is larger than every address.
    unsafe {
        let mut storage: libc::sockaddr_storage = mem::zeroed();
        ptr::copy_nonoverlapping(address, (&raw mut storage).cast(), 1);
        (storage, size_of::<T>() as u32)
    }
}

fn option<T>(socket: &impl std::os::fd::AsRawFd, level: i32, name: i32, value: T) -> Result<()> {
    // SAFETY: the value has this size.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as u32,
        )
    };
    ensure!(
        answer == 0,
        "setsockopt: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Returns the state that the kernel shows to the program.
fn tcp_info(stream: &TcpStream) -> Result<libc::tcp_info> {
    // SAFETY: all zeros are a value of it.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most this length.
    let answer = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    ensure!(
        answer == 0,
        "getsockopt: {}",
        std::io::Error::last_os_error()
    );
    Ok(info)
}

/// Waits until the kernel has ended the connection, and returns its error. A program that asks a moment before takes the error
/// away, and the end is traced without it.
fn error_at_the_end(stream: &TcpStream) -> Result<Option<i32>> {
    const TCP_CLOSE: u8 = 7;
    until("the connection has ended", || {
        Ok((tcp_info(stream)?.tcpi_state == TCP_CLOSE).then_some(()))
    })?;
    let error = stream.take_error()?;
    Ok(error.and_then(|error| error.raw_os_error()))
}

/// Makes close() reset the connection.
fn reset_at_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    option(stream, libc::SOL_SOCKET, libc::SO_LINGER, linger)
}

/// Returns true if the kernel's list of sockets has one in TIME_WAIT with this local port.
fn is_in_time_wait(port: u16) -> Result<bool> {
    const TIME_WAIT: &str = "06";
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(path).context(path)?;
        for line in text.lines() {
            let mut columns = line.split_whitespace().skip(1);
            let local = columns.next().unwrap_or_default();
            let is_local = local.ends_with(&format!(":{port:04X}"));
            if is_local && columns.nth(1) == Some(TIME_WAIT) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn wait_for_time_wait(port: u16) -> Result<()> {
    until("it is in TIME_WAIT", || {
        Ok(is_in_time_wait(port)?.then_some(()))
    })
}

/// A way in which the two sides end an established connection.
type Ending = fn(TcpStream, TcpStream) -> Result<()>;

const ENDINGS: &[(Fate, Ending)] = &[
    (Fate::ClosedHere, |client, server| {
        let port = client.local_addr()?.port();
        drop(client);
        drop(server);
        wait_for_time_wait(port)
    }),
    (Fate::ClosedHere, |mut client, server| {
        // Both sides still have their sockets when the connection is over.
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write)?;
        client.read_to_end(&mut Vec::new())?;
        wait_for_time_wait(client.local_addr()?.port())
    }),
    (Fate::ClosedByPeer, |mut client, server| {
        drop(server);
        client.read_to_end(&mut Vec::new())?;
        Ok(())
    }),
    (Fate::Reset, |mut client, server| {
        reset_at_close(&server)?;
        drop(server);
        let error = client.read(&mut [0]).expect_err("it was reset");
        ensure!(error.raw_os_error() == Some(libc::ECONNRESET), "{error}");
        Ok(())
    }),
    (Fate::Reset, |mut client, mut server| {
        // The peer closes first, and then answers with a reset to data that it can no longer read: EPIPE.
        drop(server.write(b"x"));
        drop(server);
        client.write_all(b"x")?;
        // A busy kernel sends the reset a moment later.
        let error = error_at_the_end(&client)?;
        ensure!(error == Some(libc::EPIPE), "{error:?}");
        Ok(())
    }),
    (Fate::TimedOut, |mut client, server| {
        // The peer does not read, until its window is closed.
        option(&client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 100)?;
        client.set_nonblocking(true)?;
        while client.write(&[0; 65_536]).is_ok() {}
        let error = error_at_the_end(&client)?;
        ensure!(error == Some(libc::ETIMEDOUT), "{error:?}");
        drop(server);
        Ok(())
    }),
    (Fate::Aborted, |client, _server| reset_at_close(&client)),
    (Fate::Aborted, |client, mut server| {
        server.write_all(b"x")?;
        // Closed with data that was not read.
        client.peek(&mut [0])?;
        Ok(())
    }),
];

fn each_connection_ends_as_its_two_sides_made_it(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        let session = Session::start(&following(mode))?;
        let mut made = Vec::new();
        for family in FAMILIES {
            for flags in [0, libc::SOCK_NONBLOCK] {
                for (fate, end) in ENDINGS {
                    let listener = listener(family)?;
                    let (client, port, error) =
                        connecting(family, listener.local_addr()?.port(), flags)?;
                    ensure!(
                        [None, Some(libc::EINPROGRESS)].contains(&error),
                        "{error:?}"
                    );
                    let (server, _) = listener.accept()?;
                    client.set_nonblocking(false)?;
                    end(client, server).with_context(|| format!("{fate:?}"))?;
                    made.push(Made {
                        listener,
                        port,
                        family,
                        fate: *fate,
                    });
                }
            }
            made.push(killed(family)?);
        }
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        assert_made(&trace, &made)?;
        Ok(Some(()))
    })
}

/// Connects by a program that is killed.
fn killed(family: Family) -> Result<Made> {
    let listener = listener(family)?;
    let to = address(family, listener.local_addr()?.port());
    let mut netcat = Command::new("nc");
    let ip = to.ip().to_string();
    netcat.args([ip, to.port().to_string()]);
    let client = Process::start(netcat)?;
    let (mut server, peer) = listener.accept()?;
    client.signal(libc::SIGKILL)?;
    client.end()?;
    server.read_to_end(&mut Vec::new())?;
    drop(server);
    wait_for_time_wait(peer.port())?;
    Ok(Made {
        listener,
        port: peer.port(),
        family,
        fate: Fate::ClosedHere,
    })
}

/// Fails unless the events of the trace are exactly those of these connections, and every connection is accounted for.
fn assert_made(trace: &Trace, made: &[Made]) -> Result<()> {
    let account = trace.ends.context("connections were followed")?;
    let shown = format!("{account:#?}\n{:#?}", trace.events);
    for made in made {
        let to = made.listener.local_addr()?.port();
        let is_of_it = |event: &&ConnectionEvent| {
            let connect = &event.connect;
            connect.destination.map(|to| to.port()) == Some(to) && connect.family == made.family
        };
        let events: Vec<_> = trace.events.iter().filter(is_of_it).collect();
        let fates: Vec<_> = events.iter().map(|event| event.fate).collect();
        assert_eq!(fates, [Fate::Established, made.fate], "to {to}: {shown}");
        for event in events {
            let connect = &event.connect;
            assert_eq!(connect.port.number(), Some(made.port), "{shown}");
            let connects = trace.connects.iter();
            let of_connect = connects.filter(|one| *one == connect);
            assert_eq!(of_connect.count(), 1, "its connect() is: {shown}");
            assert!(event.handshake_ns.is_some() && event.age_ns() > 0);
            assert!(event.at_ns() >= connect.start_ns + connect.connect_ns);
        }
    }
    assert_eq!(trace.events.len(), 2 * made.len(), "{shown}");
    assert_eq!(account.kernel.followed, made.len() as u64, "{shown}");
    assert!(account.complete() && account.live() == 0, "{shown}");
    assert_eq!((account.lost(), account.kernel.map_full), (0, 0), "{shown}");
    trace.assert_complete();
    Ok(())
}

/// A listener whose backlog is full, so that it does not answer a SYN, and the connection that fills it.
fn full(family: Family) -> Result<(TcpListener, TcpStream)> {
    let listener = listener(family)?;
    // SAFETY: the call takes no pointers.
    let answer = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    ensure!(answer == 0, "listen: {}", std::io::Error::last_os_error());
    let to = address(family, listener.local_addr()?.port());
    let first = TcpStream::connect(to)?;
    // A busy kernel finishes the handshake a moment later, and has room until then.
    let mut waiting = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the pointer is to one `pollfd`, which outlives the call.
    let answer = unsafe { libc::poll(&raw mut waiting, 1, -1) };
    ensure!(answer == 1, "poll: {}", std::io::Error::last_os_error());
    Ok((listener, first))
}

fn connections_that_fail_have_the_error_of_the_program(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        // The connections that fill the backlogs are not in the trace.
        let backlogs = FAMILIES.map(|family| (family, full(family)));
        let session = Session::start(&following(mode))?;
        let mut made = Vec::new();
        for (family, backlog) in backlogs {
            let (full, _filling) = backlog?;
            let full = full.local_addr()?.port();
            let closed = listener(family)?.local_addr()?.port();
            let (client, _, error) = connecting(family, closed, 0)?;
            ensure!(error == Some(libc::ECONNREFUSED), "{error:?}");
            drop(client);
            // The port of a refused socket is free again: that of a socket that does not block is known before.
            let (client, port, _) = connecting(family, closed, libc::SOCK_NONBLOCK)?;
            let refused = error_at_the_end(&client)?;
            ensure!(refused == Some(libc::ECONNREFUSED), "{refused:?}");
            if port != 0 {
                made.push((port, family, Fate::Refused, libc::ECONNREFUSED, 0));
            }
            let (client, port, error) = connecting(family, full, libc::SOCK_NONBLOCK)?;
            ensure!(error == Some(libc::EINPROGRESS), "{error:?}");
            drop(client);
            made.push((port, family, Fate::GivenUp, 0, 0));
            let (client, port, error) = connecting(family, full, libc::SOCK_NONBLOCK)?;
            ensure!(error == Some(libc::EINPROGRESS), "{error:?}");
            let error = error_at_the_end(&client)?;
            ensure!(error == Some(libc::ETIMEDOUT), "{error:?}");
            let again = tcp_info(&client)?.tcpi_total_retrans;
            ensure!(again > 0, "the SYN was sent again");
            made.push((port, family, Fate::Unanswered, libc::ETIMEDOUT, again));
        }
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        let account = trace.ends.context("connections were followed")?;
        let shown = format!("{account:#?}\n{:#?}", trace.events);
        for (port, family, fate, errno, again) in &made {
            let event = trace.events.iter().find(|event| {
                let connect = &event.connect;
                connect.port.number() == Some(*port)
                    && (connect.family, event.fate) == (*family, *fate)
            });
            let event = event.with_context(|| format!("{fate:?} from port {port}: {shown}"))?;
            assert_eq!(event.errno, *errno, "{shown}");
            assert_eq!(event.syn_retransmits, Some(*again), "{shown}");
            if *fate == Fate::Unanswered {
                assert!(event.handshake_ns > Some(2_000_000_000), "{shown}");
            }
        }
        assert!(trace.events.iter().all(|event| event.end_ns.is_some()));
        let refused = trace
            .events
            .iter()
            .filter(|event| event.fate == Fate::Refused);
        assert_eq!(refused.count(), 6, "{shown}");
        assert_eq!(account.kernel.followed, 12, "{shown}");
        assert!(account.complete() && account.live() == 0, "{shown}");
        Ok(Some(()))
    })
}

fn a_connection_whose_syn_was_lost_counts_it(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        let (listener, filling) = full(Family::V4)?;
        let port = listener.local_addr()?.port();
        let session = Session::start(&following(mode))?;
        let (client, local, error) = connecting(Family::V4, port, libc::SOCK_NONBLOCK)?;
        ensure!(error == Some(libc::EINPROGRESS), "{error:?}");
        option(&client, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 6)?;
        until("the SYN is sent again", || {
            Ok((tcp_info(&client)?.tcpi_total_retrans > 0).then_some(()))
        })?;
        // So far each SYN found the backlog full; there is room for the next one.
        drop(listener.accept()?);
        drop(filling);
        let (server, peer) = listener.accept()?;
        assert_eq!(peer.port(), local);
        let again = tcp_info(&client)?.tcpi_total_retrans;
        drop(client);
        drop(server);
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        let established = &trace.events[0];
        assert_eq!(established.fate, Fate::Established, "{:#?}", trace.events);
        assert_eq!(established.syn_retransmits, Some(again), "{established:#?}");
        assert_eq!(Wait::of(established), Wait::NetworkOrPeer);
        assert!(
            established.handshake_ns > Some(500_000_000),
            "{established:#?}"
        );
        Ok(Some(()))
    })
}

fn connections_beyond_the_most_are_counted(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        let mut session = Session::start(&ProbeConfig {
            max_connections: Some(2),
            ..config(mode)
        })?;
        let listener = listener(Family::V4)?;
        let to = listener.local_addr()?;
        let clients: Vec<_> = (0..5)
            .map(|_| TcpStream::connect(to))
            .collect::<Result<_, _>>()?;
        drop(clients);
        until("the first two have ended", || {
            let account = session.tracer.ends_account()?;
            Ok((account.context("connections are followed")?.kernel.ended == 2).then_some(()))
        })?;
        let live = TcpStream::connect(to)?;
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        drop(live);
        let account = trace.ends.context("connections were followed")?;
        let kernel = &account.kernel;
        assert_eq!((kernel.followed, kernel.map_full), (3, 3), "{account:#?}");
        assert_eq!(
            (kernel.ended, account.live(), account.left),
            (2, 1, Some(1)),
            "{account:#?}"
        );
        assert!(account.complete(), "{account:#?}");
        assert_eq!(trace.events.len(), 5, "{:#?}", trace.events);
        Ok(Some(()))
    })
}

fn a_connection_that_began_before_is_counted_apart(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        let (listener, filling) = full(Family::V4)?;
        let port = listener.local_addr()?.port();
        let (client, ..) = connecting(Family::V4, port, libc::SOCK_NONBLOCK)?;
        // The SYN is sent again until there is room, however long the probes take.
        option(&client, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 6)?;
        let session = Session::start(&following(mode))?;
        drop(listener.accept()?);
        drop(filling);
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        let account = trace.ends.context("connections were followed")?;
        assert_eq!(
            (account.kernel.followed, account.kernel.others),
            (0, 1),
            "{account:#?}"
        );
        assert!(trace.events.is_empty(), "{:#?}", trace.events);
        assert!(account.complete(), "{account:#?}");
        Ok(Some(()))
    })
}

fn connections_that_are_left_out_are_not_followed(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        let own = Filters {
            pids: vec![process::id()],
            ..Filters::default()
        };
        let only_failed = Filters {
            failed: true,
            ..Filters::default()
        };
        for (filters, followed) in [(own, 1), (only_failed, 0)] {
            let session = Session::start(&ProbeConfig {
                filters,
                ..following(mode)
            })?;
            let listener = listener(Family::V4)?;
            drop(TcpStream::connect(listener.local_addr()?)?);
            truth("v4 --count 7")?;
            let Some(trace) = seen(session)? else {
                return Ok(None);
            };
            let account = trace.ends.context("connections were followed")?;
            assert_eq!(account.kernel.followed, followed, "{account:#?}");
            assert_eq!(account.kernel.others, 8 - followed, "{account:#?}");
            assert!(account.complete(), "{account:#?}");
        }
        Ok(Some(()))
    })
}

fn events_of_connections_beyond_a_full_ring_buffer_are_counted(mode: AttachMode) -> Result<()> {
    let ring_buffer_bytes = smallest_ring_buffer_bytes();
    // Each has two events, so that these fill the buffer twice.
    let connections = u64::from(ring_buffer_bytes) / size_of::<EndRecord>() as u64;
    until(UNSKIPPED, || {
        let session = Session::start(&ProbeConfig {
            ring_buffer_bytes,
            ..following(mode)
        })?;
        let listener = listener(Family::V4)?;
        for _ in 0..connections {
            drop(TcpStream::connect(listener.local_addr()?)?);
            drop(listener.accept()?);
        }
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        let account = trace.ends.context("connections were followed")?;
        assert_eq!(account.kernel.followed, connections, "{account:#?}");
        assert_eq!(account.kernel.ended, connections, "{account:#?}");
        assert!(account.complete(), "{account:#?}");
        let read = trace.events.len() as u64;
        assert!(read > 0 && account.lost() > 0, "{account:#?}");
        assert_eq!(read + account.lost(), 2 * connections, "{account:#?}");
        Ok(Some(()))
    })
}

/// Every connection that `truth` makes is gone when it has ended.
fn every_connection_of_truth_ends(mode: AttachMode) -> Result<()> {
    until(UNSKIPPED, || {
        let session = Session::start(&following(mode))?;
        let mut made = Vec::new();
        for case in [
            "v4",
            "v6",
            "mapped",
            "refused",
            "bind-port",
            "retry",
            "taken",
        ] {
            made.extend(truth(case)?);
        }
        // The peers of the last connections may be slower than the end of the program.
        thread::sleep(Duration::from_millis(200));
        let Some(trace) = seen(session)? else {
            return Ok(None);
        };
        let account = trace.ends.context("connections were followed")?;
        let shown = format!("{account:#?}");
        let outcomes: Vec<_> = made
            .iter()
            .filter_map(|record| record.outcome.as_ref())
            .collect();
        let followed = outcomes
            .iter()
            .filter(|outcome| outcome.kernel_errno == Some(0));
        assert_eq!(account.kernel.followed, followed.count() as u64, "{shown}");
        let refused = outcomes
            .iter()
            .filter(|outcome| outcome.errno == libc::ECONNREFUSED);
        let of_trace = trace
            .events
            .iter()
            .filter(|event| event.fate == Fate::Refused);
        assert_eq!(of_trace.count(), refused.count(), "{shown}");
        let ok = outcomes.iter().filter(|outcome| outcome.errno == 0);
        assert_eq!(account.kernel.established, ok.count() as u64, "{shown}");
        assert!(account.complete() && account.live() == 0, "{shown}");
        trace.assert_complete();
        Ok(Some(()))
    })
}

fn events_reports_and_recordings_of_connections_agree((): ()) -> Result<()> {
    until(UNSKIPPED, || {
        let file = std::env::temp_dir().join(format!("ends-{}.csv.zst", process::id()));
        let shown = file.display().to_string();
        let process = tracing(&format!("--ends --events --format json --record {shown}"))?;
        truth("v4 --count 7")?;
        truth("refused --count 3")?;
        thread::sleep(Duration::from_millis(200));
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        let live = Lines::of(&ended)?;
        if live.report()?["ends"]["accounting"]["programs_skipped"].as_u64() > Some(0) {
            fs::remove_file(&file)?;
            return Ok(None);
        }
        assert_eq!((live.events.len(), live.connections.len()), (16, 23));
        let of = |outcome: &str| {
            let connections = live.connections.iter();
            connections
                .filter(|event| event["outcome"] == outcome)
                .count()
        };
        assert_eq!((of("established"), of("refused")), (7, 9), "{ended}");
        let mut replay = Command::new("connect-trace");
        replay.args(["report", &shown, "--events", "--format", "json"]);
        let replayed = Process::start(replay)?.end()?.successful()?;
        let replayed_lines = Lines::of(&replayed)?;
        assert_eq!(replayed_lines.connections.len(), 23, "{replayed}");
        let (live, replayed) = (
            live.report()?,
            // The first line names the recording.
            replayed_lines.reports.last().context("there is one")?,
        );
        assert_eq!(live["connects"], 16);
        for field in ["connects", "ends", "groups"] {
            assert_eq!(live[field], replayed[field], "{field}");
        }
        assert_eq!(live["ends"]["accounting"]["followed"], 16);
        assert_eq!(live["ends"]["accounting"]["complete"], true);
        let mut text = Command::new("connect-trace");
        text.args(["report", &shown]);
        let text = Process::start(text)?.end()?.successful()?;
        assert!(
            text.stdout.contains("\nfollowed 16 = ended 16 + live 0\n"),
            "{text}"
        );
        fs::remove_file(file)?;
        Ok(Some(()))
    })
}
