//! The parts of connect() calls, and the causes of their time.

use super::Latency;
use crate::connect::{Cause, Connect, LockWaits};

/// Time of a call that counts as slow: the usual call takes a hundredth of it.
pub(crate) const SLOW_NS: u64 = 1_000_000;

/// The parts of the calls for which they were measured.
#[derive(Clone, Debug, Default)]
pub struct PhaseTimes {
    /// Before the port search.
    pub before_search: Latency,
    /// In the port search.
    pub search: Latency,
    /// After the port search, until the SYN was sent.
    pub after_search: Latency,
    /// All calls.
    pub all: ByCause,
    /// The slow ones among them.
    pub slow: ByCause,
    /// Sums of the waits for locks; absent if the kernel does not show them.
    pub lock_waits: Option<LockWaits>,
}

/// The time of calls, by its causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByCause {
    /// Number of calls.
    pub connects: u64,
    /// Sum of the time of each cause in nanoseconds, in the order of [`Cause::ALL`].
    pub total_ns: [u64; Cause::ALL.len()],
    /// Number of calls of which this cause took the most time, in the same order.
    pub mainly: [u64; Cause::ALL.len()],
}

impl ByCause {
    fn record(&mut self, causes: [u64; Cause::ALL.len()]) {
        self.connects += 1;
        let mut main = 0;
        for (index, ns) in causes.into_iter().enumerate() {
            self.total_ns[index] = self.total_ns[index].saturating_add(ns);
            if ns > causes[main] {
                main = index;
            }
        }
        self.mainly[main] += 1;
    }

    /// Returns the share that a cause has of the time; absent without any time.
    #[must_use]
    pub fn share(&self, cause: Cause) -> Option<f64> {
        let total: f64 = self.total_ns.iter().map(|&ns| ns as f64).sum();
        (total > 0.0).then(|| self.total_ns[cause.index()] as f64 / total)
    }
}

impl PhaseTimes {
    /// Returns true if parts were asked for.
    #[must_use]
    pub fn any(&self) -> bool {
        self.all.connects > 0
    }

    /// Adds one connect().
    pub(crate) fn record(&mut self, connect: &Connect) {
        let (Some(phases), Some(causes)) = (&connect.phases, connect.ns_by_cause()) else {
            return;
        };
        if let (Some(search_ns), Some(after_ns)) = (connect.search_ns, connect.after_search_ns()) {
            self.before_search.record(phases.before_search_ns);
            self.search.record(search_ns);
            self.after_search.record(after_ns);
        }
        self.all.record(causes);
        if connect.connect_ns >= SLOW_NS {
            self.slow.record(causes);
        }
        if let Some(waits) = phases.lock_waits {
            let sums = self.lock_waits.get_or_insert_default();
            for (sum, ns) in [
                (&mut sums.bhash_ns, waits.bhash_ns),
                (&mut sums.bhash2_ns, waits.bhash2_ns),
                (&mut sums.ehash_ns, waits.ehash_ns),
                (&mut sums.other.in_search_ns, waits.other.in_search_ns),
                (&mut sums.other.elsewhere_ns, waits.other.elsewhere_ns),
            ] {
                *sum = sum.saturating_add(ns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{connect_from, phases};

    #[test]
    fn the_time_of_the_calls_is_split_by_cause() {
        let mut times = PhaseTimes::default();
        let usual = Connect {
            phases: Some(phases()),
            ..connect_from(20_000)
        };
        times.record(&usual);
        times.record(&Connect {
            connect_ns: 5_020_000,
            search_ns: Some(5_005_000),
            ..usual
        });
        assert_eq!((times.all.connects, times.slow.connects), (2, 1));
        let total: u64 = times.all.total_ns.iter().sum();
        assert_eq!(total, 20_000 + 5_020_000);
        // The usual call spends most in the stack, the slow one in the search.
        assert_eq!(times.all.mainly, [1, 0, 0, 0, 1]);
        assert_eq!(times.slow.mainly, [1, 0, 0, 0, 0]);
        assert!(times.slow.share(Cause::Ports).unwrap() > 0.99);
        assert_eq!(times.lock_waits.unwrap().ehash_ns, 600);
        assert_eq!(times.before_search.count(), 2);
    }

    #[test]
    fn calls_without_parts_are_left_out() {
        let mut times = PhaseTimes::default();
        times.record(&connect_from(20_000));
        assert!(!times.any());
        assert_eq!(times.all.share(Cause::Ports), None);
    }
}
