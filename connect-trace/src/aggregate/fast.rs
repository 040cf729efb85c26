//! The connects that `--min-latency` leaves no record of. The kernel counts and buckets them, so that
//! these figures stay those of all connects.

use connect_trace_common::BUCKETS;

use super::Group;

/// Connects below `--min-latency`, by what became of their source ports; nothing without that option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastConnects {
    /// Successful, with an even port found by the search.
    pub even: FastGroup,
    /// Successful, with an odd port found by the search.
    pub odd: FastGroup,
    /// Successful, with a port that the socket had before.
    pub bound: FastGroup,
    /// Failed, by whatever errno.
    pub failed: FastGroup,
}

/// Times of connect() and of the port search within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastGroup {
    /// Time in `tcp_v4_connect` or `tcp_v6_connect`.
    pub connect: FastTimes,
    /// Time in `__inet_hash_connect`.
    pub search: FastTimes,
}

/// What the kernel keeps of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastTimes {
    /// Number of times.
    pub count: u64,
    /// Sum of the times in nanoseconds.
    pub total_ns: u64,
    /// Longest time in nanoseconds.
    pub max_ns: u64,
    /// Number of times by [`connect_trace_common::power_of_ten`].
    pub buckets: [u64; BUCKETS],
}

impl FastConnects {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.groups().iter().map(|group| group.connect.count).sum()
    }

    /// What has come since an earlier reading of the same sums. The longest time stays that of both.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            even: self.even.since(&earlier.even),
            odd: self.odd.since(&earlier.odd),
            bound: self.bound.since(&earlier.bound),
            failed: self.failed.since(&earlier.failed),
        }
    }

    /// All of them as one group, which has no percentiles.
    #[must_use]
    pub fn together(&self) -> Group {
        let mut all = Group::default();
        for group in self.groups() {
            all.merge_fast(group);
        }
        all
    }

    fn groups(&self) -> [&FastGroup; 4] {
        [&self.even, &self.odd, &self.bound, &self.failed]
    }
}

impl FastGroup {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            connect: self.connect.since(&earlier.connect),
            search: self.search.since(&earlier.search),
        }
    }
}

impl FastTimes {
    fn since(&self, earlier: &Self) -> Self {
        // Of one CPU's sum another may have been read earlier: never below zero.
        let mut buckets = self.buckets;
        for (now, before) in buckets.iter_mut().zip(earlier.buckets) {
            *now = now.saturating_sub(before);
        }
        let count = self.count.saturating_sub(earlier.count);
        Self {
            count,
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            max_ns: if count > 0 { self.max_ns } else { 0 },
            buckets,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// So many times of 20 µs.
    pub(crate) fn times(count: u64) -> FastTimes {
        let mut times = FastTimes {
            count,
            total_ns: count * 20_000,
            max_ns: if count > 0 { 20_000 } else { 0 },
            ..FastTimes::default()
        };
        times.buckets[4] = count;
        times
    }

    /// So many even, and as many failed that did not come to the search.
    pub(crate) fn example(count: u64) -> FastConnects {
        FastConnects {
            even: FastGroup {
                connect: times(count),
                search: times(count),
            },
            failed: FastGroup {
                connect: times(count),
                search: times(0),
            },
            ..FastConnects::default()
        }
    }

    #[test]
    fn an_interval_has_what_came_in_it() {
        assert_eq!(example(10).since(&example(4)), example(6));
        assert_eq!(example(10).since(&example(10)), FastConnects::default());
        assert_eq!(example(10).since(&FastConnects::default()), example(10));
    }

    #[test]
    fn together_they_have_sums_and_no_percentiles() {
        let all = example(3).together();
        assert_eq!((example(3).count(), all.connect.count()), (6, 6));
        assert_eq!(all.search.count(), 3);
        assert_eq!(all.connect.buckets()[4], 6);
        assert_eq!(all.connect.quantile_ns(0.5), None);
    }
}
