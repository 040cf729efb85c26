//! The parts of one connect(), and the causes of its time.

use super::{Connect, ConnectionEvent, Fate, SourcePort};

/// The parts of one connect(), from its entry until the SYN is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// Nanoseconds before `__inet_hash_connect`: route and security; 0 if that function was not entered.
    pub before_search_ns: u64,
    /// Time off the CPU although the thread could run: preempted, or yielded in `__cond_resched`.
    pub preempted: Split,
    /// Time off the CPU until something happened.
    pub blocked: Split,
    /// Waits for locks; absent if the kernel does not show them.
    pub lock_waits: Option<LockWaits>,
}

/// A time in nanoseconds, within the port search and outside of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Within `__inet_hash_connect`.
    pub in_search_ns: u64,
    /// Before and after it.
    pub elsewhere_ns: u64,
}

impl Split {
    /// Returns the sum.
    #[must_use]
    pub fn total_ns(self) -> u64 {
        self.in_search_ns.saturating_add(self.elsewhere_ns)
    }
}

/// Waits for locks by table. A lower bound: the tracepoints `contention_begin` and `contention_end` leave out the first
/// waiter of a spinlock, and all waiters in some virtual machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockWaits {
    /// Nanoseconds for locks of `inet_hashinfo.bhash`, the buckets of ports.
    pub bhash_ns: u64,
    /// Nanoseconds for locks of `inet_hashinfo.bhash2`, the buckets of addresses and ports.
    pub bhash2_ns: u64,
    /// Nanoseconds for locks of `inet_hashinfo.ehash_locks`, which protect the connections.
    pub ehash_ns: u64,
    /// Other locks.
    pub other: Split,
}

impl LockWaits {
    /// Returns the nanoseconds for locks of the port search's tables. All of them are within the search.
    #[must_use]
    pub fn of_tables_ns(self) -> u64 {
        [self.bhash_ns, self.bhash2_ns, self.ehash_ns]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// A cause of the time that a connect() takes until the SYN is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The search for a source port, without its waits.
    Ports,
    /// Waits for locks.
    Locks,
    /// Waits for a CPU.
    Scheduler,
    /// Waits for anything else, such as memory.
    Blocked,
    /// The rest of the network stack: route, security, SYN.
    Stack,
}

impl Cause {
    /// All causes, in the order of reports.
    pub const ALL: [Self; 5] = [
        Self::Ports,
        Self::Locks,
        Self::Scheduler,
        Self::Blocked,
        Self::Stack,
    ];

    /// Returns the index in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the name for people.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Ports => "ports: the search",
            Self::Locks => "locks",
            Self::Scheduler => "scheduler: waiting for CPU",
            Self::Blocked => "blocked",
            Self::Stack => "stack: route, SYN",
        }
    }
}

/// A cause of the time that a handshake takes: the wait for the peer's answer, after connect() has sent the SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// The way to the peer and back; a busy peer looks the same.
    Network,
    /// The SYN was sent again: a packet was lost, or the peer's queue of connections was full.
    NetworkOrPeer,
    /// The peer refused the connection.
    Peer,
}

impl Wait {
    /// All causes, in the order of reports.
    pub const ALL: [Self; 3] = [Self::Network, Self::NetworkOrPeer, Self::Peer];

    /// Returns the index in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the name for people.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Network => "network: handshake",
            Self::NetworkOrPeer => "network or peer: SYN again",
            Self::Peer => "peer: refused",
        }
    }

    /// Returns the name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::NetworkOrPeer => "network-or-peer",
            Self::Peer => "peer",
        }
    }

    /// Returns the cause of a handshake that has ended.
    #[must_use]
    pub fn of(event: &ConnectionEvent) -> Self {
        if event.syn_retransmits.is_some_and(|count| count > 0) {
            return Self::NetworkOrPeer;
        }
        match event.fate {
            Fate::Refused => Self::Peer,
            _ => Self::Network,
        }
    }
}

impl Connect {
    /// Returns the nanoseconds of each cause, in the order of [`Cause::ALL`]; absent if the parts are not known, or the
    /// return of the search was missed.
    #[must_use]
    pub fn ns_by_cause(&self) -> Option<[u64; Cause::ALL.len()]> {
        let phases = self.phases?;
        // A call of UDP on a socket that has a port searches none; TCP looks at the port that it has.
        let is_bound = matches!(self.port, SourcePort::Bound(_));
        let searches = self.source.is_some() && !(self.kind.protocol.is_udp() && is_bound);
        if self.search_ns.is_none() && searches {
            return None;
        }
        let search_ns = self.search_ns.unwrap_or(0);
        let locks = phases.lock_waits.unwrap_or_default();
        let waits = |split: fn(Split) -> u64, of_tables: u64| {
            [phases.preempted, phases.blocked, locks.other]
                .into_iter()
                .fold(of_tables, |sum, wait| sum.saturating_add(split(wait)))
        };
        let in_search = waits(|wait| wait.in_search_ns, locks.of_tables_ns());
        let elsewhere = waits(|wait| wait.elsewhere_ns, 0);
        let stack_ns = self.connect_ns.saturating_sub(search_ns);
        let mut causes = [0; Cause::ALL.len()];
        causes[Cause::Ports.index()] = search_ns.saturating_sub(in_search);
        let lock_ns = locks.of_tables_ns().saturating_add(locks.other.total_ns());
        causes[Cause::Locks.index()] = lock_ns;
        causes[Cause::Scheduler.index()] = phases.preempted.total_ns();
        causes[Cause::Blocked.index()] = phases.blocked.total_ns();
        causes[Cause::Stack.index()] = stack_ns.saturating_sub(elsewhere);
        Some(causes)
    }

    /// Returns the nanoseconds from the end of the port search until the SYN is sent; absent without a search or
    /// without parts.
    #[must_use]
    pub fn after_search_ns(&self) -> Option<u64> {
        let until = self
            .phases?
            .before_search_ns
            .saturating_add(self.search_ns?);
        Some(self.connect_ns.saturating_sub(until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{connect_from, connection_event, phases};

    #[test]
    fn a_syn_that_was_sent_again_tells_more_than_the_outcome() {
        let of = |fate, again| {
            Wait::of(&ConnectionEvent {
                syn_retransmits: Some(again),
                ..connection_event(fate)
            })
        };
        assert_eq!(of(Fate::Established, 0), Wait::Network);
        assert_eq!(of(Fate::Refused, 0), Wait::Peer);
        for fate in [Fate::Established, Fate::Refused, Fate::Unanswered] {
            assert_eq!(of(fate, 1), Wait::NetworkOrPeer);
        }
    }

    #[test]
    fn the_causes_add_up_to_the_time_of_the_call() {
        let connect = Connect {
            phases: Some(phases()),
            ..connect_from(20_000)
        };
        let causes = connect.ns_by_cause().unwrap();
        assert_eq!(causes, [2_300, 1_200, 900, 1_300, 14_300]);
        assert_eq!(causes.iter().sum::<u64>(), connect.connect_ns);
        assert_eq!(connect.after_search_ns(), Some(20_000 - 5_000 - 2_000));
    }

    #[test]
    fn without_a_search_nothing_is_of_the_ports() {
        let early = Connect {
            phases: Some(Phases {
                before_search_ns: 0,
                ..phases()
            }),
            search_ns: None,
            source: None,
            ..connect_from(0)
        };
        assert_eq!(early.ns_by_cause().unwrap()[0], 0);
        assert_eq!(early.after_search_ns(), None);
    }

    #[test]
    fn a_search_of_unknown_length_has_no_causes() {
        let missed = Connect {
            phases: Some(phases()),
            search_ns: None,
            ..connect_from(20_000)
        };
        assert_eq!(missed.ns_by_cause(), None);
        assert_eq!(connect_from(20_000).ns_by_cause(), None, "not asked for");
    }
}
