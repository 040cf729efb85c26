//! The connect() calls that get no record because of `--min-latency`. The kernel counts and buckets them, so that these
//! statistics still cover all calls.

use connect_trace_common::{FastGroup, FastSums};

use super::Group;
use crate::connect::{Connect, Outcome};

/// Calls below `--min-latency`, by the outcome of their source ports; all zero without that option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BelowMinimum {
    /// Successful, with an even port found by the search.
    pub even: FastGroup,
    /// Successful, with an odd port found by the search.
    pub odd: FastGroup,
    /// Successful, with a port that the socket had before.
    pub bound: FastGroup,
    /// Failed, with any errno.
    pub failed: FastGroup,
}

impl From<&FastSums> for BelowMinimum {
    fn from(sums: &FastSums) -> Self {
        let mut below = Self::default();
        for (kind, group) in sums.groups() {
            below.group(Outcome::of_kind(kind)).add(group);
        }
        below
    }
}

impl BelowMinimum {
    /// Returns the number of calls.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.groups().iter().map(|group| group.connect.count).sum()
    }

    /// Adds a connect() to the sums, as the kernel does for a call without a record.
    pub fn record(&mut self, connect: &Connect) {
        let group = self.group(Outcome::of(connect));
        group.connect.record(connect.connect_ns);
        if let Some(ns) = connect.search_ns {
            group.search.record(ns);
        }
    }

    /// Returns the sums of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        both.even.add(&other.even);
        both.odd.add(&other.odd);
        both.bound.add(&other.bound);
        both.failed.add(&other.failed);
        both
    }

    /// Returns the difference from an earlier reading of the same sums. The longest time stays that of both.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            even: self.even.since(&earlier.even),
            odd: self.odd.since(&earlier.odd),
            bound: self.bound.since(&earlier.bound),
            failed: self.failed.since(&earlier.failed),
        }
    }

    /// Returns all calls as one group, which has no percentiles.
    #[must_use]
    pub fn together(&self) -> Group {
        let mut all = Group::default();
        for group in self.groups() {
            all.merge_fast(group);
        }
        all
    }

    fn group(&mut self, outcome: Outcome) -> &mut FastGroup {
        match outcome {
            Outcome::Even => &mut self.even,
            Outcome::Odd => &mut self.odd,
            Outcome::Bound => &mut self.bound,
            Outcome::Failed => &mut self.failed,
        }
    }

    fn groups(&self) -> [&FastGroup; 4] {
        [&self.even, &self.odd, &self.bound, &self.failed]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::SourcePort,
        fixtures::{below_minimum, connect_from},
    };

    #[test]
    fn an_interval_has_what_came_in_it() {
        assert_eq!(below_minimum(10).since(&below_minimum(4)), below_minimum(6));
        assert_eq!(
            below_minimum(10).since(&below_minimum(10)),
            BelowMinimum::default()
        );
        assert_eq!(
            below_minimum(10).since(&BelowMinimum::default()),
            below_minimum(10)
        );
    }

    #[test]
    fn those_of_a_recording_are_summed_up_as_the_kernel_does() {
        let mut fast = BelowMinimum::default();
        for _ in 0..3 {
            let even = connect_from(20_000);
            fast.record(&Connect {
                search_ns: Some(even.connect_ns),
                ..even
            });
            fast.record(&Connect {
                errno: libc::ENETUNREACH,
                port: SourcePort::None,
                search_ns: None,
                ..connect_from(0)
            });
        }
        assert_eq!(fast, below_minimum(3));
        assert_eq!(fast.and(&below_minimum(4)), below_minimum(7));
        fast.record(&connect_from(20_001));
        fast.record(&Connect {
            port: SourcePort::Bound(80),
            ..connect_from(0)
        });
        assert_eq!((fast.odd.connect.count, fast.bound.connect.count), (1, 1));
        assert_eq!(fast.count(), 8);
    }

    #[test]
    fn together_they_have_sums_and_no_percentiles() {
        let all = below_minimum(3).together();
        assert_eq!((below_minimum(3).count(), all.connect.count()), (6, 6));
        assert_eq!(all.search.count(), 3);
        assert_eq!(all.connect.buckets()[4], 6);
        assert_eq!(all.connect.quantile_ns(0.5), None);
    }
}
