//! The calls that are recorded: all, or only slow, failed and sampled ones. The others are counted, so that the account
//! at the end of a recording has every call.

use std::hash::{BuildHasher as _, RandomState};

use super::RecordArgs;
use crate::{
    connect::Connect,
    stats::{BelowMinimum, report::KernelSide},
};

/// Chooses the calls that are recorded, and counts the others.
#[derive(Default)]
pub(super) struct Choice {
    /// Calls of this time or more are always recorded; without a minimum, only failed ones are.
    min_ns: Option<u64>,
    /// Set if 1 in this number of the other calls is recorded.
    sample: Option<u32>,
    random: RandomState,
    /// Calls below the minimum that are not recorded.
    below: BelowMinimum,
    /// Other calls that are not recorded.
    unsampled: u64,
}

impl Choice {
    /// Returns the choice of these options, with nothing counted.
    pub(super) fn new(args: &RecordArgs) -> Self {
        let min = args.record_min_latency;
        Self {
            min_ns: min.map(|min| u64::try_from(min.as_nanos()).unwrap_or(u64::MAX)),
            sample: args.record_sample,
            ..Self::default()
        }
    }

    /// Returns the options that leave calls out, for the note at the start.
    pub(super) fn words(&self) -> Vec<String> {
        let min = self.min_ns.map(|ns| format!("--record-min-latency {ns}ns"));
        let sample = self.sample.map(|every| format!("--record-sample {every}"));
        min.into_iter().chain(sample).collect()
    }

    /// Returns true if a call is recorded. The answer is the same for all events of its connection.
    pub(super) fn takes(&self, connect: &Connect) -> bool {
        if connect.errno != 0 || (self.min_ns, self.sample) == (None, None) {
            return true;
        }
        if self.min_ns.is_some_and(|min| connect.connect_ns >= min) {
            return true;
        }
        // A thread begins one call at a time.
        let key = (connect.start_ns, connect.tid);
        self.sample
            .is_some_and(|every| self.random.hash_one(key).is_multiple_of(every.into()))
    }

    /// Counts a call that is not recorded.
    pub(super) fn leave_out(&mut self, connect: &Connect) {
        match self.min_ns {
            Some(_) => self.below.record(connect),
            None => self.unsampled += 1,
        }
    }

    /// Returns the counters of the trace as if the kernel had left these calls out.
    pub(super) fn applied_to(&self, counted: &KernelSide) -> KernelSide {
        let below = self.below.count();
        let mut counted = counted.clone();
        let accounting = &mut counted.accounting;
        accounting.decoded -= below + self.unsampled;
        accounting.kernel.reported -= below + self.unsampled;
        accounting.kernel.fast += below;
        accounting.kernel.unsampled += self.unsampled;
        counted.fast = counted.fast.and(&self.below);
        counted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixtures::connect_from;

    fn choice(record_min_latency: Option<Duration>, record_sample: Option<u32>) -> Choice {
        Choice::new(&RecordArgs {
            record_min_latency,
            record_sample,
            ..RecordArgs::default()
        })
    }

    /// Returns 10,000 calls of 1 to 10,000 ns.
    fn calls() -> impl Iterator<Item = Connect> {
        (1..=10_000).map(|ns| Connect {
            start_ns: 77 * ns,
            connect_ns: ns,
            ..connect_from(20_000)
        })
    }

    #[test]
    fn without_options_every_call_is_taken() {
        assert!(calls().all(|connect| choice(None, None).takes(&connect)));
    }

    #[test]
    fn failed_calls_are_always_taken() {
        let failed = Connect {
            errno: libc::EADDRNOTAVAIL,
            ..connect_from(20_000)
        };
        let strict = choice(Some(Duration::from_secs(1)), Some(u32::MAX));
        assert!(strict.takes(&failed));
        assert!(!strict.takes(&connect_from(20_000)));
    }

    #[test]
    fn a_minimum_takes_the_slow_ones_and_sums_up_the_others() {
        let mut choice = choice(Some(Duration::from_nanos(9_001)), None);
        let (slow, fast): (Vec<_>, Vec<_>) = calls().partition(|connect| choice.takes(connect));
        assert_eq!((slow.len(), slow[0].connect_ns), (1_000, 9_001));
        for connect in &fast {
            choice.leave_out(connect);
        }
        let mut all = KernelSide::default();
        all.accounting.kernel.entered = 10_000;
        all.accounting.kernel.reported = 10_000;
        all.accounting.decoded = 10_000;
        let counted = choice.applied_to(&all);
        assert!(counted.accounting.complete());
        assert_eq!(counted.accounting.decoded, 1_000);
        assert_eq!(counted.accounting.left_out(), 9_000);
        assert_eq!(counted.fast.even.connect.total_ns, 9_000 * 9_001 / 2);
    }

    #[test]
    fn a_sample_is_about_1_in_as_many_and_the_same_for_a_connections_events() {
        let mut choice = choice(None, Some(10));
        let taken: Vec<Connect> = calls().filter(|connect| choice.takes(connect)).collect();
        // Ten standard deviations of 30 around the mean of 1,000.
        assert!((700..1_300).contains(&taken.len()), "{}", taken.len());
        assert!(taken.iter().all(|connect| choice.takes(connect)));
        choice.leave_out(&connect_from(20_000));
        let mut one = KernelSide::default();
        one.accounting.kernel.entered = 1;
        one.accounting.kernel.reported = 1;
        one.accounting.decoded = 1;
        let counted = choice.applied_to(&one).accounting;
        assert!(counted.complete() && counted.sampled());
        assert_eq!(counted.decoded, 0);
    }
}
