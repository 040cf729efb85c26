//! The account of every call of connect(): entered = reported + left out + not sampled + lost, by reason + in flight.

use std::{fmt, time::Duration};

use connect_trace_common::Counters;

/// The calls since the probes were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// The kernel's counters.
    pub kernel: Counters,
    /// Records that were decoded and are in the report.
    pub decoded: u64,
    /// Entries of the ring buffer that could not be decoded.
    pub undecodable: u64,
    /// Calls that have not returned.
    pub in_flight: u64,
    /// Runs of a program that the kernel skipped; `None` if it does not count them.
    pub recursion_misses: Option<u64>,
    /// Returns that found no free slot, by the kernel's count; `None` if there are no return events of ours.
    pub kretprobe_misses: Option<u64>,
    /// Forks at which the kernel skipped the program; `None` if it does not count them, or children are not followed.
    pub fork_misses: Option<u64>,
    /// Ends of threads at which the kernel skipped the program; `None` if it does not count them.
    pub thread_end_misses: Option<u64>,
    /// Sum of the counters' movements while they were read; 0 when the probes are detached.
    pub moved: u64,
    /// Time during which the probes were detached to keep the overhead limit, and no call was seen.
    pub blind: Duration,
    /// Reason why a recording has no account; all numbers are then zero.
    pub unknown: Option<Unknown>,
}

/// Reason why the account of a recording is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The recording was cut, and the account is at its end.
    Cut,
    /// The report is of an interval of the recording, and the account is that of the whole.
    Interval,
}

impl fmt::Display for Unknown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cut => {
                "INCOMPLETE: the recording was cut, so it is not known how many calls were lost"
            }
            Self::Interval => "the account of the whole recording is in the last report",
        })
    }
}

impl Accounting {
    /// Returns the number of records written by the kernel that have not been decoded yet.
    #[must_use]
    pub fn in_ring(&self) -> u64 {
        self.kernel.reported.saturating_sub(self.decoded)
    }

    /// Returns the account of the calls since an earlier reading. Calls that were in flight then, or in the ring
    /// buffer, count as entered: they end, or are read, in this time.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |now: Option<u64>, before: Option<u64>| {
            now.map(|now| now.saturating_sub(before.unwrap_or(0)))
        };
        // An entry that cannot be decoded is never a record of a later time.
        let read_before = earlier.decoded + earlier.undecodable;
        let in_ring_before = earlier.kernel.reported.saturating_sub(read_before);
        let carried = earlier.in_flight + in_ring_before;
        Self {
            kernel: Counters {
                entered: self.kernel.entered.saturating_sub(earlier.kernel.entered) + carried,
                reported: self.kernel.reported.saturating_sub(read_before),
                // A child that was not followed before is not followed now.
                not_followed: self.kernel.not_followed,
                ..self.kernel.since(&earlier.kernel)
            },
            decoded: self.decoded.saturating_sub(earlier.decoded),
            undecodable: self.undecodable.saturating_sub(earlier.undecodable),
            in_flight: self.in_flight,
            recursion_misses: difference(self.recursion_misses, earlier.recursion_misses),
            kretprobe_misses: difference(self.kretprobe_misses, earlier.kretprobe_misses),
            fork_misses: self.fork_misses,
            thread_end_misses: difference(self.thread_end_misses, earlier.thread_end_misses),
            // Either reading may have been of counters that moved.
            moved: self.moved + earlier.moved,
            blind: self.blind.saturating_sub(earlier.blind),
            unknown: self.unknown,
        }
    }

    /// Returns the number of calls that entered and will never be in a report.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.kernel.ring_full
            + self.kernel.in_flight_full
            + self.kernel.return_missed
            + self.undecodable
    }

    /// Returns the number of calls without a record because none was wanted: successful calls, or fast ones.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.kernel.succeeded + self.kernel.fast
    }

    /// Returns whether calls got no record because of sampling.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.kernel.unsampled > 0
    }

    /// Returns the number of calls that are accounted for.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.decoded + self.in_ring() + self.left_out() + self.kernel.unsampled + self.lost()
            - self.undecodable
            + self.in_flight
    }

    /// Returns whether every call is accounted for. While probes are attached, a difference of up to `moved` is
    /// allowed.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.kernel.entered.abs_diff(self.accounted()) <= self.moved
            && (self.moved > 0 || self.in_ring() == self.undecodable)
    }

    /// Returns whether every call was seen: the counters add up, the kernel skipped no program, every child that had to
    /// be followed was followed, and the probes were attached all the time. A missed end of a thread matters only if
    /// calls count as in flight, which may belong to that thread.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.unknown.is_none()
            && self.adds_up()
            && self.recursion_misses.unwrap_or(0) == 0
            && self.kernel.not_followed == 0
            && self.fork_misses.unwrap_or(0) == 0
            && !self.ends_may_be_missing()
            && self.blind.is_zero()
    }

    /// Returns whether calls that count as in flight may belong to threads that have ended. Known at the end only:
    /// while a trace runs, calls are in flight anyway.
    #[must_use]
    pub fn ends_may_be_missing(&self) -> bool {
        self.moved == 0 && self.in_flight > 0 && self.thread_end_misses.unwrap_or(0) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Accounting {
        Accounting {
            kernel: Counters {
                entered: 100,
                reported: 90,
                ring_full: 4,
                in_flight_full: 3,
                return_missed: 2,
                filtered: 1_000,
                search_return_missed: 5,
                ..Counters::default()
            },
            decoded: 90,
            in_flight: 1,
            ..Accounting::default()
        }
    }

    #[test]
    fn losses_with_a_reason_add_up() {
        let accounting = example();
        assert_eq!((accounting.lost(), accounting.accounted()), (9, 100));
        assert!(accounting.complete());
    }

    #[test]
    fn a_call_that_needs_no_record_is_accounted_for() {
        let mut accounting = example();
        accounting.kernel.entered += 7;
        assert!(!accounting.adds_up());
        accounting.kernel.fast = 4;
        accounting.kernel.succeeded = 3;
        assert!(accounting.adds_up());
        assert_eq!(accounting.left_out(), 7);
    }

    #[test]
    fn a_call_that_was_not_sampled_is_accounted_for() {
        let mut accounting = example();
        accounting.kernel.entered += 63;
        assert!(!accounting.adds_up() && !accounting.sampled());
        accounting.kernel.unsampled = 63;
        assert!(accounting.complete() && accounting.sampled());
        assert_eq!(accounting.left_out(), 0);
    }

    #[test]
    fn the_accounts_of_the_parts_of_a_trace_add_up_and_carry_what_was_in_flight() {
        let earlier = Accounting {
            kernel: Counters {
                reported: 95,
                unsampled: 2,
                entered: 107,
                ..example().kernel
            },
            undecodable: 2,
            moved: 1,
            ..example()
        };
        assert_eq!((earlier.adds_up(), earlier.in_ring()), (true, 5));
        assert_eq!(earlier.since(&Accounting::default()), earlier);
        let mut all = earlier;
        // The three in the ring are read, the one in flight ends, and three more are lost; two are in flight.
        all.kernel.entered += 7;
        all.kernel.reported += 3;
        all.kernel.ring_full += 3;
        all.in_flight = 2;
        all.decoded += 6;
        assert!(all.adds_up(), "{all:?}");
        let part = all.since(&earlier);
        assert!(part.adds_up(), "{part:?}");
        assert_eq!((part.decoded, part.in_ring(), part.lost()), (6, 0, 3));
        assert_eq!(part.kernel.entered, 7 + 1 + 3);
        all.kernel.entered += 5;
        assert!(!all.since(&earlier).adds_up(), "five are missing");
    }

    #[test]
    fn a_child_that_was_not_followed_is_missing_in_every_later_part() {
        let mut earlier = example();
        earlier.kernel.not_followed = 1;
        earlier.recursion_misses = Some(3);
        let part = earlier.since(&earlier);
        assert!(part.adds_up() && !part.complete());
        assert_eq!(part.recursion_misses, Some(0));
    }

    #[test]
    fn a_time_without_probes_makes_it_incomplete() {
        let mut accounting = example();
        accounting.blind = Duration::from_nanos(1);
        assert!(accounting.adds_up() && !accounting.complete());
    }

    #[test]
    fn a_child_that_was_not_followed_makes_it_incomplete() {
        let mut accounting = example();
        accounting.kernel.not_followed = 1;
        assert!(accounting.adds_up() && !accounting.complete());
    }

    #[test]
    fn a_fork_that_was_not_seen_makes_it_incomplete() {
        let mut accounting = example();
        accounting.fork_misses = Some(0);
        assert!(accounting.complete());
        accounting.fork_misses = Some(1);
        assert!(accounting.adds_up() && !accounting.complete());
    }

    #[test]
    fn a_thread_end_that_was_not_seen_makes_it_incomplete_if_calls_are_in_flight() {
        let mut accounting = example();
        accounting.thread_end_misses = Some(1);
        assert!(accounting.adds_up() && !accounting.complete());
        accounting.in_flight = 0;
        accounting.kernel.entered -= 1;
        assert!(accounting.complete());
    }

    #[test]
    fn one_call_too_few_or_too_many_does_not_add_up() {
        for entered in [99, 101] {
            let mut accounting = example();
            accounting.kernel.entered = entered;
            assert!(!accounting.adds_up());
            accounting.moved = 1;
            assert!(
                accounting.adds_up(),
                "it may have entered while the counters were read"
            );
        }
    }

    #[test]
    fn a_record_that_never_came_out_of_the_ring_does_not_add_up() {
        let accounting = Accounting {
            decoded: 89,
            ..example()
        };
        assert_eq!(accounting.in_ring(), 1);
        assert!(!accounting.adds_up());
    }

    #[test]
    fn an_entry_that_was_no_record_is_a_loss() {
        let accounting = Accounting {
            decoded: 89,
            undecodable: 1,
            ..example()
        };
        assert!(accounting.adds_up());
        assert_eq!(accounting.lost(), 10);
    }

    #[test]
    fn a_program_that_the_kernel_left_out_makes_it_incomplete() {
        let accounting = Accounting {
            recursion_misses: Some(1),
            ..example()
        };
        assert!(accounting.adds_up() && !accounting.complete());
    }
}
