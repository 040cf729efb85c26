//! Connections after their connect(): handshakes and ends by their fates, and the account of every
//! connection that was followed.

use std::collections::BTreeMap;

use connect_trace_common::EndCounters;

use super::{Latency, phases::SLOW_NS};
use crate::connect::{ConnectionEvent, Fate, Wait};

/// The handshakes and the ends of one report.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Handshakes that ended, by their fate.
    pub handshakes: BTreeMap<Fate, Handshakes>,
    /// Time from the start of connect() to the end, of the connections that were established and ended, by their fate.
    pub ages: BTreeMap<Fate, Latency>,
    /// Times of all handshakes by their cause, in the order of [`Wait::ALL`].
    pub waits: [WaitTimes; Wait::ALL.len()],
}

/// Times of the handshakes of one cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitTimes {
    /// Number of handshakes.
    pub count: u64,
    /// Sum of their times in nanoseconds.
    pub total_ns: u64,
    /// Number of slow ones: a millisecond or more.
    pub slow: u64,
    /// Sum of the times of the slow ones.
    pub slow_ns: u64,
}

/// Handshakes of one fate.
#[derive(Clone, Debug, Default)]
pub struct Handshakes {
    /// Time from the return of connect() to the end of the handshake.
    pub times: Latency,
    /// Number of handshakes in which the SYN was sent again.
    pub retransmitted: u64,
}

impl Ends {
    /// Adds an event.
    pub fn record(&mut self, event: &ConnectionEvent) {
        if !event.fate.is_of_handshake() {
            let ages = self.ages.entry(event.fate).or_default();
            ages.record(event.age_ns());
            return;
        }
        let handshakes = self.handshakes.entry(event.fate).or_default();
        let ns = event.handshake_ns.unwrap_or(0);
        handshakes.times.record(ns);
        let wait = &mut self.waits[Wait::of(event).index()];
        wait.count += 1;
        wait.total_ns = wait.total_ns.saturating_add(ns);
        if ns >= SLOW_NS {
            wait.slow += 1;
            wait.slow_ns = wait.slow_ns.saturating_add(ns);
        }
        handshakes.retransmitted += u64::from(event.syn_retransmits.is_some_and(|count| count > 0));
    }

    /// Returns true if no handshake and no connection has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.handshakes.is_empty() && self.ages.is_empty()
    }

    /// Returns the number of connections that ended, successful handshake or not.
    #[must_use]
    pub fn ended(&self) -> u64 {
        let handshakes = self.handshakes.iter();
        let failed = handshakes.filter(|(fate, _)| **fate != Fate::Established);
        let failed = failed.map(|(_, handshakes)| &handshakes.times);
        failed.chain(self.ages.values()).map(Latency::count).sum()
    }
}

/// The account of the connections that were followed since the probes were attached: followed = ended + live + unseen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndsAccount {
    /// The kernel's counters.
    pub kernel: EndCounters,
    /// Events of established connections that were read.
    pub established_read: u64,
    /// Events of connections that ended, and that were read.
    pub ended_read: u64,
    /// Entries of the ring buffer that could not be decoded.
    pub undecodable: u64,
    /// Connections that were in the map after the probes were detached; `None` while they are attached, when the number
    /// changes.
    pub left: Option<u64>,
    /// Changes of state at which the kernel skipped the program; `None` if it does not count them.
    pub skipped: Option<u64>,
}

impl EndsAccount {
    /// Returns the account of the connections since an earlier reading. Those that were live then count as followed, as
    /// do those whose end was not read yet.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let unread = |written: u64, lost: u64, read: u64| written.saturating_sub(lost + read);
        let before = earlier.kernel;
        let established = unread(
            before.established,
            before.established_lost,
            earlier.established_read,
        );
        let ended = unread(before.ended, before.ended_lost, earlier.ended_read);
        let mut kernel = self.kernel.since(&before);
        kernel.established += established;
        kernel.ended += ended;
        kernel.followed += ended
            + before
                .followed
                .saturating_sub(before.ended + before.replaced);
        Self {
            kernel,
            established_read: self
                .established_read
                .saturating_sub(earlier.established_read),
            ended_read: self.ended_read.saturating_sub(earlier.ended_read),
            undecodable: self.undecodable.saturating_sub(earlier.undecodable),
            left: self.left,
            // A connection whose end was skipped before counts as live now.
            skipped: self.skipped,
        }
    }

    /// Returns the number of connections that have not ended.
    #[must_use]
    pub fn live(&self) -> u64 {
        let gone = self.kernel.ended + self.kernel.replaced;
        self.left
            .unwrap_or_else(|| self.kernel.followed.saturating_sub(gone))
    }

    /// Returns the number of events that will never be in a report.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.kernel.established_lost + self.kernel.ended_lost + self.undecodable
    }

    /// Returns the number of events that were written and not read yet.
    #[must_use]
    pub fn in_ring(&self) -> u64 {
        let EndCounters {
            established,
            established_lost,
            ended,
            ended_lost,
            ..
        } = self.kernel;
        let written = (established + ended).saturating_sub(established_lost + ended_lost);
        written.saturating_sub(self.established_read + self.ended_read + self.undecodable)
    }

    /// Returns whether every connection and every event is accounted for. That is known when the probes are detached;
    /// before, it is only known that no more was read than was counted.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let EndCounters {
            followed,
            replaced,
            established,
            established_lost,
            ended,
            ended_lost,
            ..
        } = self.kernel;
        let read = self.established_read + self.ended_read + self.undecodable;
        let written =
            established + ended - (established_lost + ended_lost).min(established + ended);
        match self.left {
            Some(left) => followed == ended + replaced + left && written == read,
            None => ended + replaced <= followed && read <= written,
        }
    }

    /// Returns whether the end of every connection that was followed was seen.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.adds_up() && self.kernel.replaced == 0 && self.skipped.unwrap_or(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connection_event;

    #[test]
    fn an_event_is_a_handshake_or_an_end() {
        let mut ends = Ends::default();
        assert!(ends.is_empty());
        ends.record(&connection_event(Fate::Established));
        let lost_syn = ConnectionEvent {
            syn_retransmits: Some(1),
            ..connection_event(Fate::Established)
        };
        ends.record(&lost_syn);
        ends.record(&connection_event(Fate::Refused));
        ends.record(&connection_event(Fate::ClosedHere));
        let established = &ends.handshakes[&Fate::Established];
        assert_eq!(
            (established.times.count(), established.retransmitted),
            (2, 1)
        );
        assert_eq!(established.times.max_ns(), Some(300_000));
        assert_eq!(ends.handshakes[&Fate::Refused].times.count(), 1);
        assert_eq!(ends.ages[&Fate::ClosedHere].max_ns(), Some(2_000_000));
        assert_eq!((ends.ages.len(), ends.ended()), (1, 2));
    }

    fn example() -> EndsAccount {
        EndsAccount {
            kernel: EndCounters {
                followed: 10,
                established: 8,
                established_lost: 1,
                ended: 6,
                ended_lost: 2,
                ..EndCounters::default()
            },
            established_read: 7,
            ended_read: 4,
            left: Some(4),
            ..EndsAccount::default()
        }
    }

    #[test]
    fn a_connection_that_is_neither_live_nor_ended_does_not_add_up() {
        assert!(example().complete());
        assert_eq!((example().live(), example().lost()), (4, 3));
        for left in [3, 5] {
            let account = EndsAccount {
                left: Some(left),
                ..example()
            };
            assert!(!account.adds_up(), "{left}");
        }
        let unread = EndsAccount {
            ended_read: 3,
            ..example()
        };
        assert_eq!(unread.in_ring(), 1);
        assert!(!unread.adds_up());
        let running = EndsAccount {
            left: None,
            ..unread
        };
        assert!(running.adds_up(), "it is in the ring buffer still");
        assert_eq!(running.live(), 4);
    }

    #[test]
    fn a_part_of_a_trace_begins_with_the_connections_that_were_live() {
        let earlier = EndsAccount {
            ended_read: 3,
            left: None,
            ..example()
        };
        assert_eq!(earlier.since(&EndsAccount::default()), earlier);
        let mut all = example();
        all.kernel.followed += 2;
        all.kernel.ended += 5;
        all.ended_read += 5;
        all.left = Some(1);
        assert!(all.complete(), "{all:?}");
        let part = all.since(&earlier);
        assert!(part.complete(), "{part:?}");
        assert_eq!((part.kernel.followed, part.live()), (4 + 1 + 2, 1));
        assert_eq!((part.kernel.ended, part.ended_read), (6, 6));
    }

    #[test]
    fn an_end_that_was_not_seen_makes_it_incomplete() {
        let mut account = example();
        account.kernel.replaced = 1;
        account.left = Some(3);
        assert!(account.adds_up() && !account.complete());
        let skipped = EndsAccount {
            skipped: Some(1),
            ..example()
        };
        assert!(skipped.adds_up() && !skipped.complete());
    }
}
