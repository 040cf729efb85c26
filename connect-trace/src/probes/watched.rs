//! When `__inet{,6}_check_established` was watched last: a connect() that overlaps it took longer, and of one
//! that is within it every call was seen.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::monotonic_ns;

/// Not yet.
const NEVER: u64 = u64::MAX;

/// The last time of watching, in nanoseconds of `CLOCK_MONOTONIC`, the clock of the records. One is enough:
/// between two of them all records are read.
#[derive(Debug)]
pub struct Watched {
    /// Attaching began.
    since: AtomicU64,
    /// All was attached.
    whole_since: AtomicU64,
    /// Detaching began.
    whole_until: AtomicU64,
    /// All was detached.
    until: AtomicU64,
}

impl Default for Watched {
    fn default() -> Self {
        let [since, whole_since, whole_until, until] = [(); 4].map(|()| NEVER.into());
        Self {
            since,
            whole_since,
            whole_until,
            until,
        }
    }
}

impl Watched {
    /// Attaching begins now.
    pub(super) fn begins(&self) {
        // In this order, so that a reader never sees the old beginning without its end.
        for time in [
            &self.since,
            &self.whole_since,
            &self.whole_until,
            &self.until,
        ] {
            set(time, NEVER);
        }
        set(&self.since, monotonic_ns());
    }

    /// All is attached.
    pub(super) fn is_whole(&self) {
        set(&self.whole_since, monotonic_ns());
    }

    /// Detaching begins now.
    pub(super) fn ends(&self) {
        set(&self.whole_until, monotonic_ns());
    }

    /// All is detached.
    pub(super) fn has_ended(&self) {
        set(&self.until, monotonic_ns());
    }

    /// Whether anything is attached.
    pub(super) fn goes_on(&self) -> bool {
        get(&self.since) != NEVER && get(&self.until) == NEVER
    }

    /// Whether a call that lasted from `start_ns` to `end_ns`, and has ended, overlaps it.
    #[must_use]
    pub fn overlaps(&self, start_ns: u64, end_ns: u64) -> bool {
        get(&self.since) <= end_ns && start_ns <= get(&self.until)
    }

    /// Whether all was attached for the whole of such a call.
    #[must_use]
    pub fn covers(&self, start_ns: u64, end_ns: u64) -> bool {
        get(&self.whole_since) <= start_ns && end_ns <= get(&self.whole_until)
    }
}

fn get(time: &AtomicU64) -> u64 {
    time.load(Ordering::Acquire)
}

fn set(time: &AtomicU64, ns: u64) {
    time.store(ns, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All attached from 110 to 190, begun at 100 and ended at 200.
    fn ended() -> Watched {
        let watched = Watched::default();
        set(&watched.since, 100);
        set(&watched.whole_since, 110);
        set(&watched.whole_until, 190);
        set(&watched.until, 200);
        watched
    }

    #[test]
    fn a_call_that_touches_the_time_of_watching_overlaps_it() {
        let never = Watched::default();
        assert!(!never.overlaps(0, NEVER - 1) && !never.goes_on());
        let watched = ended();
        assert!(!watched.overlaps(50, 99) && !watched.overlaps(201, 300));
        assert!(watched.overlaps(50, 100) && watched.overlaps(200, 300));
        assert!(!watched.goes_on());
        set(&watched.until, NEVER);
        assert!(watched.overlaps(500, 600) && watched.goes_on());
    }

    #[test]
    fn every_call_is_seen_of_a_connect_while_all_was_attached() {
        let watched = ended();
        assert!(watched.covers(110, 190));
        assert!(!watched.covers(109, 190) && !watched.covers(110, 191));
        assert!(!Watched::default().covers(0, 0));
    }

    #[test]
    fn the_next_time_takes_the_place_of_the_last() {
        let watched = ended();
        watched.begins();
        let now = monotonic_ns();
        assert!(watched.goes_on());
        assert!(!watched.overlaps(150, 160) && watched.overlaps(150, now));
        assert!(!watched.covers(150, 160));
        watched.is_whole();
        let later = monotonic_ns();
        assert!(watched.covers(later, later + 1));
        watched.ends();
        watched.has_ended();
        assert!(!watched.goes_on() && watched.overlaps(now, later));
    }
}
