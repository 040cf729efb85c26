//! Many threads that are alive at the same time and connect, to measure the cost of a connect() beside a tracer that
//! keeps state for each thread.

use std::net::SocketAddr;
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::listener::closed_port;
use super::record::Family;
use super::socket::{Socket, loopback};

/// Returns the mean over all threads of the least time of `count` connect() calls in each thread, in nanoseconds. The
/// calls are refused: of all calls that find a port, these take the least time. No thread ends before all have
/// connected.
pub(super) fn mean_of_least_ns(threads: usize, count: usize) -> Result<f64> {
    let (_holder, port) = closed_port(Family::V4, |_| true)?;
    let to = SocketAddr::new(loopback(Family::V4), port);
    let all_alive = Barrier::new(threads);
    let all_connected = Barrier::new(threads);
    let turn = Mutex::new(());
    let least = || {
        all_alive.wait();
        let least = least_ns(to, count, &turn);
        // Every thread must reach this barrier, or the others would wait for ever.
        all_connected.wait();
        least
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(least)).collect();
        let mut sum_ns = 0;
        for thread in running {
            sum_ns += thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(sum_ns as f64 / threads as f64)
    })
}

/// Returns the least time of a connect() call. Calls never run beside another thread, and only after a pause: while
/// `ksoftirqd` is busy, the kernel leaves the packet's arrival to that thread, and a connect() takes half as long or
/// waits.
fn least_ns(to: SocketAddr, count: usize, turn: &Mutex<()>) -> Result<u64> {
    const PAUSE: Duration = Duration::from_micros(50);
    let mut socket = Socket::new(Family::V4)?;
    let mut least = None;
    for _ in 0..count {
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        thread::sleep(PAUSE);
        let attempt = socket.connect(to);
        let ns = attempt.end_ns - attempt.start_ns;
        least = Some(least.map_or(ns, |least: u64| least.min(ns)));
    }
    least.context("a thread that connects not even once")
}
