//! Whole connections, one after the other, to measure the cost of one from open to close beside a tracer.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::listener::Listener;
use super::record::Family;
use super::socket::{Socket, monotonic_ns};

/// Returns the least time of `count` connections, in nanoseconds: from connect() until both ends are closed, the client's
/// first. All of it runs on one thread, the work of the network included.
pub(super) fn least_ns(count: usize) -> Result<u64> {
    /// The kernel's threads do their work meanwhile.
    const PAUSE: Duration = Duration::from_micros(50);
    let listener = Listener::new(Family::V4, 1)?;
    let mut least = None;
    for _ in 0..count {
        thread::sleep(PAUSE);
        let mut client = Socket::new(Family::V4)?;
        let start = monotonic_ns();
        client.connect(listener.address());
        let server = listener.accept()?;
        drop(client);
        drop(server);
        let ns = monotonic_ns() - start;
        least = Some(least.map_or(ns, |least: u64| least.min(ns)));
    }
    least.context("not even one connection")
}
