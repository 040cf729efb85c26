//! The small cases, one function each: their --help (`command.rs`) gives the results that they expect of the kernel,
//! and the comments here explain how they produce them.

use std::fs;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::limit::make_room_for;
use super::listener::{Listener, closed_port};
use super::namespace::{enter_fresh, in_fresh};
use super::range::PortRange;
use super::record::{Explicit, Family, Record};
use super::socket::{Socket, loopback};
use super::turns::Turns;
use super::witness::Witness;

/// Explicit ports, between those of the listeners and the kernel's default range.
const EXPLICIT_PORTS: std::ops::RangeInclusive<u16> = 10_000..=19_999;

/// Cases `v4`, `v6` and `mapped`.
pub(super) fn plain(case: &'static str, family: Family, count: usize) -> Result<Vec<Record>> {
    let listener = Listener::new(family, count)?;
    make_room_for(count)?;
    let mut witness = Witness::new(case)?;
    witness.connect_and_hold(family, count, listener.address())?;
    Ok(witness.into_records())
}

/// Cases `bind-port`, `bind-any` and `bind-address`, each with every family.
pub(super) fn bound(case: &'static str, explicit: Explicit, count: usize) -> Result<Vec<Record>> {
    let mut witness = Witness::new(case)?;
    make_room_for(Family::ALL.len() * count)?;
    for family in Family::ALL {
        let listener = Listener::new(family, count)?;
        for _ in 0..count {
            let mut socket = bound_socket(family, explicit)?;
            witness.connect(&mut socket, listener.address())?;
            witness.hold(socket);
        }
    }
    Ok(witness.into_records())
}

fn bound_socket(family: Family, explicit: Explicit) -> Result<Socket> {
    let mut socket = Socket::new(family)?;
    match explicit {
        Explicit::None => {}
        Explicit::Port => {
            socket.bind_some_port(EXPLICIT_PORTS, |_| true)?;
        }
        Explicit::PortAny => socket.bind_any()?,
        Explicit::Address => socket.bind_address()?,
    }
    Ok(socket)
}

pub(super) fn refused(count: usize) -> Result<Vec<Record>> {
    let mut witness = Witness::new("refused")?;
    for family in Family::ALL {
        let (_closed, port) = closed_port(family, |_| true)?;
        witness.connect_and_hold(family, count, SocketAddr::new(loopback(family), port))?;
    }
    Ok(witness.into_records())
}

/// Cases `unreachable` and `v6-unreachable`: a namespace with only loopback has no other route.
pub(super) fn unreachable(
    case: &'static str,
    families: &[Family],
    count: usize,
) -> Result<Vec<Record>> {
    in_fresh(|| {
        let mut witness = Witness::new(case)?;
        for family in families {
            // Addresses reserved for documentation.
            let far = match family {
                Family::V4 => SocketAddr::from(([192, 0, 2, 1], 80)),
                Family::V6 => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 80)),
                Family::Mapped => SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x201], 80)),
            };
            witness.connect_and_hold(*family, count, far)?;
        }
        Ok(witness.into_records())
    })
}

/// Case `taken`: SO_REUSEADDR on both sockets lets the second bind the port, but not make the same connection. The
/// first gets the option after bind(), which would otherwise choose a port of an earlier round again.
pub(super) fn taken(count: usize) -> Result<Vec<Record>> {
    let mut witness = Witness::new("taken")?;
    for family in Family::ALL {
        let listener = Listener::new(family, count)?;
        for _ in 0..count {
            let mut first = Socket::new(family)?;
            let port = first.bind_some_port(EXPLICIT_PORTS, |_| true)?;
            first.reuse_address()?;
            witness.connect(&mut first, listener.address())?;
            witness.hold(first);

            let mut second = Socket::new(family)?;
            second.reuse_address()?;
            second.bind_port(port)?;
            witness.connect(&mut second, listener.address())?;
        }
    }
    Ok(witness.into_records())
}

/// The setting of whether ports in TIME_WAIT are found again, of this network namespace.
const TW_REUSE: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
/// The kernel's default.
const REUSE_ON_LOOPBACK: &str = "2";

/// Case `time-wait`: the side that closes first gets the TIME_WAIT: here the client, on both ports of the range.
pub(super) fn time_wait() -> Result<Vec<Record>> {
    in_fresh(|| {
        let range = PortRange::new(20_000, 20_001)?;
        range.set()?;
        let listener = Listener::outside(Some(range), Family::V4, range.ports())?;
        fs::write(TW_REUSE, "0").context(TW_REUSE)?;
        let mut witness = Witness::new("time-wait")?;
        for _ in 0..range.ports() {
            let mut client = Socket::new(Family::V4)?;
            witness.connect(&mut client, listener.address())?;
            let server = listener.accept()?;
            drop(client);
            drop(server);
        }
        // Not allowed: with tcp_tw_reuse, a port would be found again after a second.
        witness.connect_and_hold(Family::V4, 1, listener.address())?;
        fs::write(TW_REUSE, REUSE_ON_LOOPBACK).context(TW_REUSE)?;
        // Some kernels count in whole seconds, so that the wait may take two.
        thread::sleep(Duration::from_millis(2_500));
        witness.connect_and_hold(Family::V4, range.ports(), listener.address())?;
        Ok(witness.into_records())
    })
}

/// Two namespaces that connect the same addresses and ports at the same time.
pub(super) fn netns(count: u16) -> Result<Vec<Record>> {
    let both_connected = Barrier::new(2);
    on_threads(2, |_| {
        let connected = same_ports(count);
        // Every thread must reach this barrier, or the other one would wait for ever.
        both_connected.wait();
        Ok(connected?.1.into_records())
    })
}

/// Connects from an explicit port and then from every port of a range, in a namespace of the thread's own.
fn same_ports(count: u16) -> Result<(Listener, Witness)> {
    enter_fresh()?;
    let range = PortRange::new(20_000, 20_000 + count - 1)?;
    range.set()?;
    let listener = Listener::outside(Some(range), Family::V4, range.ports() + 1)?;
    let mut witness = Witness::new("netns")?;
    let mut explicit = Socket::new(Family::V4)?;
    explicit.bind_port(*EXPLICIT_PORTS.start())?;
    witness.connect(&mut explicit, listener.address())?;
    witness.hold(explicit);
    witness.connect_and_hold(Family::V4, range.ports(), listener.address())?;
    Ok((listener, witness))
}

/// Case `threads`: all threads start at once, and keep their connections until the last thread has finished. They take
/// turns, so that many of them are inside connect() at the same time.
pub(super) fn threads(threads: usize, count: usize, range: PortRange) -> Result<Vec<Record>> {
    let _turns = Turns::shortest()?;
    let listener = Listener::outside(Some(range), Family::V4, range.ports())?;
    make_room_for(threads * count)?;
    let start = Barrier::new(threads);
    let end = Barrier::new(threads);
    on_threads(threads, |_| {
        let witness = Turns::taken().and_then(|()| Witness::new("threads"));
        start.wait();
        let connected = witness.and_then(|mut witness| {
            witness.connect_and_hold(Family::V4, count, listener.address())?;
            Ok(witness)
        });
        // Every thread must reach this barrier, or the others would wait for ever.
        end.wait();
        Ok(connected?.into_records())
    })
}

/// Makes further calls on a socket whose first connect() did not wait: to a listener that answers, and to one that does
/// not answer because its backlog is full.
pub(super) fn nonblocking(count: usize) -> Result<Vec<Record>> {
    let mut witness = Witness::new("nonblocking")?;
    for family in Family::ALL {
        let listener = Listener::new(family, count)?;
        for _ in 0..count {
            let mut socket = Socket::new(family)?;
            socket.never_block()?;
            for _call in ["EINPROGRESS", "0", "EISCONN"] {
                witness.connect(&mut socket, listener.address())?;
                socket.wait_for(libc::POLLOUT)?;
            }
            witness.hold(socket);
        }

        let (full, port) = closed_port(family, |_| true)?;
        full.listen(0)?;
        let full_address = SocketAddr::new(loopback(family), port);
        // A backlog of 0 has room for one.
        witness.connect_and_hold(family, 1, full_address)?;
        full.wait_for(libc::POLLIN)?;
        for _ in 0..count {
            let mut socket = Socket::new(family)?;
            socket.never_block()?;
            for _call in ["EINPROGRESS", "EALREADY"] {
                witness.connect(&mut socket, full_address)?;
            }
        }
    }
    Ok(witness.into_records())
}

/// Connects twice before the port has a listener and once after, with the kernel's port and with an explicit one.
pub(super) fn retry(count: usize) -> Result<Vec<Record>> {
    let mut witness = Witness::new("retry")?;
    for family in Family::ALL {
        for explicit in [Explicit::None, Explicit::Port] {
            for _ in 0..count {
                let (server, port) = closed_port(family, |_| true)?;
                let address = SocketAddr::new(loopback(family), port);
                let mut socket = bound_socket(family, explicit)?;
                witness.connect(&mut socket, address)?;
                witness.connect(&mut socket, address)?;
                server.listen(1)?;
                witness.connect(&mut socket, address)?;
            }
        }
    }
    Ok(witness.into_records())
}

/// Returns the records of all threads, in the order of the threads.
pub(super) fn on_threads(
    threads: usize,
    work: impl Fn(usize) -> Result<Vec<Record>> + Sync,
) -> Result<Vec<Record>> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        let mut records = Vec::new();
        for thread in running {
            records.extend(
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        Ok(records)
    })
}
