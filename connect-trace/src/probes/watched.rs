//! When `__inet{,6}_check_established` was watched last: a connect() that overlaps it took longer.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::monotonic_ns;

/// Not yet.
const NEVER: u64 = u64::MAX;

/// The last time of watching, in nanoseconds of `CLOCK_MONOTONIC`, the clock of the records. One is enough:
/// between two of them all records are read.
#[derive(Debug)]
pub struct Watched {
    since: AtomicU64,
    until: AtomicU64,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            since: NEVER.into(),
            until: NEVER.into(),
        }
    }
}

impl Watched {
    /// Attaching begins now.
    pub(super) fn begin(&self) {
        self.begin_at(monotonic_ns());
    }

    /// All is detached.
    pub(super) fn end(&self) {
        self.until.store(monotonic_ns(), Ordering::Release);
    }

    fn begin_at(&self, now_ns: u64) {
        // In this order, so that a reader never sees the old beginning without its end.
        self.since.store(NEVER, Ordering::Release);
        self.until.store(NEVER, Ordering::Release);
        self.since.store(now_ns, Ordering::Release);
    }

    /// Whether it goes on.
    pub(super) fn goes_on(&self) -> bool {
        let has_begun = self.since.load(Ordering::Acquire) != NEVER;
        has_begun && self.until.load(Ordering::Acquire) == NEVER
    }

    /// Whether a call that lasted from `start_ns` to `end_ns`, and has ended, overlaps it.
    #[must_use]
    pub fn overlaps(&self, start_ns: u64, end_ns: u64) -> bool {
        self.since.load(Ordering::Acquire) <= end_ns
            && start_ns <= self.until.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_touches_the_time_of_watching_overlaps_it() {
        let watched = Watched::default();
        assert!(!watched.overlaps(0, NEVER - 1) && !watched.goes_on());
        watched.begin_at(100);
        assert!(watched.goes_on());
        assert!(!watched.overlaps(50, 99));
        assert!(watched.overlaps(50, 100) && watched.overlaps(500, 600));
        watched.until.store(200, Ordering::Release);
        assert!(!watched.goes_on());
        assert!(watched.overlaps(150, 160) && watched.overlaps(200, 300));
        assert!(!watched.overlaps(201, 300));
        watched.begin_at(1_000);
        assert!(!watched.overlaps(150, 160) && watched.overlaps(900, 1_000));
    }
}
