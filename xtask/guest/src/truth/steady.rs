//! Load for comparisons: a range of which a fixed number of ports is in use towards one destination, while threads
//! connect to it and close by a reset, so that no port stays in TIME_WAIT.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::limit::make_room_for;
use super::listener::Listener;
use super::range::PortRange;
use super::rate::{Totals, connected_until};
use super::record::Family;
use super::witness::Witness;

/// A steady load.
pub(super) struct Steady {
    /// The range of ports.
    pub(super) range: PortRange,
    /// Number of connections that are held.
    pub(super) held: usize,
    /// Number of threads that connect.
    pub(super) threads: usize,
    /// Pause of a thread between two connections.
    pub(super) pause: Duration,
    /// Time after the ports are in use.
    pub(super) duration: Duration,
}

impl Steady {
    /// Runs the load, and returns the calls of its threads.
    pub(super) fn run(&self) -> Result<Totals> {
        let listener = Listener::outside(Some(self.range), Family::V4, self.held + self.threads)?;
        make_room_for(self.held + 2 * self.threads)?;
        let mut witness = Witness::new("steady")?;
        witness.connect_and_hold(Family::V4, self.held, listener.address())?;
        let start = Instant::now();
        let end = start + self.duration;
        let thread = || connected_until(end, &listener, self.pause);
        Totals::of(start, (0..self.threads).map(|_| thread))
    }
}
