//! The load for tests of loss: threads that connect and close as fast as they can, and how many
//! connect() calls that were.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::listener::Listener;
use super::record::Family;
use super::socket::Socket;

/// How many calls ended with each errno, 0 being success, and how long it took.
pub(super) struct Totals {
    calls: BTreeMap<i32, u64>,
    elapsed: Duration,
}

/// Each thread has a listener to itself, which it empties, so that no thread waits for another one.
pub(super) fn rate(threads: usize, duration: Duration) -> Result<Totals> {
    let listeners = (0..threads)
        .map(|_| Listener::new(Family::V4, 1))
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let end = start + duration;
    let mut totals = Totals {
        calls: BTreeMap::new(),
        elapsed: Duration::ZERO,
    };
    thread::scope(|scope| {
        let running: Vec<_> = listeners
            .iter()
            .map(|listener| scope.spawn(move || connect_until(end, listener)))
            .collect();
        for thread in running {
            let calls = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            for (errno, count) in calls {
                *totals.calls.entry(errno).or_default() += count;
            }
        }
        anyhow::Ok(())
    })?;
    totals.elapsed = start.elapsed();
    Ok(totals)
}

fn connect_until(end: Instant, listener: &Listener) -> Result<BTreeMap<i32, u64>> {
    let mut calls = BTreeMap::new();
    while Instant::now() < end {
        let mut socket = Socket::new(Family::V4)?;
        socket.reset_on_close()?;
        let attempt = socket.connect(listener.address());
        *calls.entry(attempt.errno).or_default() += 1;
        drop(socket);
        listener.empty()?;
    }
    Ok(calls)
}

impl Display for Totals {
    /// A name and a number on each line, tab-separated.
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
