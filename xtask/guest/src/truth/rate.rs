//! Load for tests of loss: threads that connect and close as fast as they can, and the number of their connect() calls.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::listener::{Listener, closed_port};
use super::record::Family;
use super::socket::{Socket, loopback};

/// Number of calls that ended with each errno, 0 being success, and the duration.
pub(super) struct Totals {
    calls: BTreeMap<i32, u64>,
    elapsed: Duration,
}

/// Outcome of each connect() call.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    /// Succeeds, and is closed by a reset.
    Reset,
    /// Is refused, by a reset too. Of all calls that find a port, these take the least time, and the socket can connect
    /// again.
    Refused,
}

/// Case `rate`: each thread has its own destination, so that no thread waits for another one.
pub(super) fn rate(ends: Ends, threads: usize, duration: Duration) -> Result<Totals> {
    let destinations = (0..threads)
        .map(|_| Destination::new(ends))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let end = start + duration;
    let threads = destinations
        .iter()
        .map(|destination| move || destination.connect_until(end));
    Totals::of(start, threads)
}

impl Totals {
    /// Runs each function in a thread of its own, and adds up the calls that they return by errno.
    pub(super) fn of<F>(start: Instant, threads: impl Iterator<Item = F>) -> Result<Self>
    where
        F: FnOnce() -> Result<BTreeMap<i32, u64>> + Send,
    {
        let mut calls = BTreeMap::new();
        thread::scope(|scope| {
            let running: Vec<_> = threads.map(|thread| scope.spawn(thread)).collect();
            for thread in running {
                let made = thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                for (errno, count) in made {
                    *calls.entry(errno).or_default() += count;
                }
            }
            anyhow::Ok(())
        })?;
        Ok(Self {
            calls,
            elapsed: start.elapsed(),
        })
    }
}

/// Destination of a thread.
enum Destination {
    /// A listener, emptied by the thread.
    Listener(Listener),
    /// A port that is held and has no listener.
    Closed { _holder: Socket, port: u16 },
}

impl Destination {
    fn new(ends: Ends) -> Result<Self> {
        Ok(match ends {
            Ends::Reset => Self::Listener(Listener::new(Family::V4, 1)?),
            Ends::Refused => {
                let (_holder, port) = closed_port(Family::V4, |_| true)?;
                Self::Closed { _holder, port }
            }
        })
    }

    /// Returns the number of calls that ended with each errno.
    fn connect_until(&self, end: Instant) -> Result<BTreeMap<i32, u64>> {
        match self {
            Self::Listener(listener) => connected_until(end, listener, Duration::ZERO),
            Self::Closed { port, .. } => refused_until(end, *port),
        }
    }
}

fn refused_until(end: Instant, port: u16) -> Result<BTreeMap<i32, u64>> {
    let to = SocketAddr::new(loopback(Family::V4), port);
    let mut socket = Socket::new(Family::V4)?;
    let mut calls = BTreeMap::new();
    while Instant::now() < end {
        *calls.entry(socket.connect(to).errno).or_default() += 1;
    }
    Ok(calls)
}

/// Connects, closes by a reset and pauses, over and over. Returns the number of calls that ended with each errno.
pub(super) fn connected_until(
    end: Instant,
    listener: &Listener,
    pause: Duration,
) -> Result<BTreeMap<i32, u64>> {
    let mut calls = BTreeMap::new();
    while Instant::now() < end {
        let mut socket = Socket::new(Family::V4)?;
        socket.reset_on_close()?;
        let attempt = socket.connect(listener.address());
        *calls.entry(attempt.errno).or_default() += 1;
        drop(socket);
        listener.empty()?;
        thread::sleep(pause);
    }
    Ok(calls)
}

impl Display for Totals {
    /// Writes a name and a number on each line, tab-separated.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let calls: u64 = self.calls.values().sum();
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "calls\t{calls}")?;
        writeln!(f, "connected\t{}", self.calls.get(&0).unwrap_or(&0))?;
        for (errno, count) in self.calls.iter().filter(|(errno, _)| **errno != 0) {
            writeln!(f, "errno {errno}\t{count}")?;
        }
        writeln!(f, "seconds\t{seconds:.3}")?;
        writeln!(f, "per second\t{:.0}", calls as f64 / seconds)
    }
}
