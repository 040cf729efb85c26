//! The connect() calls of one report, by the outcome of their source ports.

use std::collections::BTreeMap;

use super::{
    BelowMinimum, Candidates, Group, Key, PhaseTimes, PortChoices,
    groups::{Named, Top},
    key::PortChoiceKey,
};
use crate::connect::{CallKind, Connect, Operation, Outcome, Pass, SearchRange};

/// Largest number of ranges and errnos that are kept apart. The kernel's connect() has fewer errnos, and a host has few
/// ranges, unless sockets are given their own.
pub(crate) const MOST_KINDS: usize = 32;

/// The connect() calls of one report.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Number of all calls.
    pub connects: u64,
    /// Successful, with an even port found by the search.
    pub even: Group,
    /// Successful, with an odd port found by the search.
    pub odd: Group,
    /// Successful, with a port of the first pass.
    pub first_pass: Group,
    /// Successful, with a port of the second pass.
    pub second_pass: Group,
    /// Successful, with a port found by a search of one pass.
    pub only_pass: Group,
    /// Successful, with a port that the socket had before.
    pub bound: Group,
    /// Failed, by errno; errnos beyond `MOST_KINDS` of them are counted under 0.
    pub failed: BTreeMap<i32, Group>,
    /// Failed, and below `--min-latency`, so that the errno is not known.
    pub failed_fast: Group,
    /// Number of calls below `--min-latency`: part of all values but percentiles, passes, errnos and ranges.
    pub fast: u64,
    /// Number of calls by protocol and operation; without the fast ones.
    pub kinds: BTreeMap<CallKind, u64>,
    /// Number of calls by the range that was searched, up to `MOST_KINDS` ranges.
    pub ranges: BTreeMap<SearchRange, u64>,
    /// Calls by port choice; without the fast ones.
    pub port_choices: PortChoices,
    /// Number of calls that failed before the port search.
    pub without_search: u64,
    /// Number of calls whose calls of `__inet{,6}_check_established` were watched.
    pub checks_watched: u64,
    /// Number of watched calls with a long search, or one of unknown length: a short one is hardly made longer.
    pub searches_watched: u64,
    /// The long searches of the watched calls.
    pub candidates_watched: Candidates,
    /// The long searches of all other calls.
    pub candidates: Candidates,
    /// Number of calls of `__inet{,6}_check_established` by the connect() calls that counted them.
    pub checks: u64,
    /// Number of connect() calls that counted them.
    pub checks_counted: u64,
    /// The parts of the calls, if they were measured.
    pub phases: PhaseTimes,
}

impl Summary {
    /// Adds one connect().
    pub fn record(&mut self, connect: &Connect) {
        self.connects += 1;
        *self.kinds.entry(connect.kind).or_default() += 1;
        self.port_choices.record(connect);
        self.phases.record(connect);
        if connect.checks_watched {
            self.checks_watched += 1;
            self.searches_watched += u64::from(Candidates::may_have(connect));
            self.candidates_watched.record(connect);
        } else {
            self.candidates.record(connect);
        }
        if let Some(checks) = connect.checks {
            self.checks += u64::from(checks);
            self.checks_counted += 1;
        }
        match connect.range {
            Some(range) => self.count_range(range, 1),
            None => self.without_search += u64::from(connect.source.is_none()),
        }
        if connect.errno != 0 {
            let known = self.failed.len() < MOST_KINDS || self.failed.contains_key(&connect.errno);
            let errno = if known { connect.errno } else { 0 };
            self.failed.entry(errno).or_default().record(connect);
            return;
        }
        match Outcome::of(connect) {
            Outcome::Even => self.even.record(connect),
            Outcome::Odd => self.odd.record(connect),
            Outcome::Bound | Outcome::Failed => self.bound.record(connect),
        }
        if let Some(pass) = connect.pass() {
            self.of_pass(pass).record(connect);
        }
    }

    /// Adds calls of one kind that found ports of one parity (even or odd), in one range and with one port choice.
    pub fn merge_found(
        &mut self,
        kind: CallKind,
        parity: Outcome,
        range: SearchRange,
        choice: Option<PortChoiceKey>,
        found: &Group,
    ) {
        let connects = found.connect.count();
        if connects == 0 {
            return;
        }
        self.connects += connects;
        *self.kinds.entry(kind).or_default() += connects;
        self.port_choices.merge(choice, found);
        self.count_range(range, connects);
        let odd = parity == Outcome::Odd;
        if odd { &mut self.odd } else { &mut self.even }.merge(found);
        self.of_pass(range.pass(u16::from(odd))).merge(found);
    }

    fn count_range(&mut self, range: SearchRange, more: u64) {
        if let Some(connects) = self.ranges.get_mut(&range) {
            *connects += more;
        } else if self.ranges.len() < MOST_KINDS {
            self.ranges.insert(range, more);
        }
    }

    fn of_pass(&mut self, pass: Pass) -> &mut Group {
        match pass {
            Pass::First => &mut self.first_pass,
            Pass::Second => &mut self.second_pass,
            Pass::Only => &mut self.only_pass,
        }
    }

    /// Adds the calls that were too fast for a record, of which the kernel kept sums.
    pub fn merge_fast(&mut self, fast: &BelowMinimum) {
        self.connects += fast.count();
        self.fast += fast.count();
        self.even.merge_fast(&fast.even);
        self.odd.merge_fast(&fast.odd);
        self.bound.merge_fast(&fast.bound);
        self.failed_fast.merge_fast(&fast.failed);
    }

    /// Returns the calls by parity, in the form of [`super::Groups::top`].
    #[must_use]
    pub fn by_parity(&self) -> Top {
        let groups = [
            (Outcome::Even, self.even.clone()),
            (Outcome::Odd, self.odd.clone()),
            (Outcome::Bound, self.bound.clone()),
            (Outcome::Failed, self.failures()),
        ];
        let groups = groups.into_iter().map(|(parity, group)| Named {
            key: Key::Parity(parity),
            comm: None,
            group,
        });
        Top {
            groups: groups
                .filter(|named| named.group.connect.count() > 0)
                .collect(),
            rest: None,
            fast: None,
        }
    }

    /// Returns true if any call is of another protocol than TCP.
    #[must_use]
    pub fn has_others_than_tcp(&self) -> bool {
        self.kinds.keys().any(|kind| !kind.protocol.is_tcp())
    }

    /// Returns true if any call is not a connect().
    #[must_use]
    pub fn has_others_than_connect(&self) -> bool {
        let mut kinds = self.kinds.keys();
        kinds.any(|kind| kind.operation != Operation::Connect)
    }

    /// Returns true if there are calls of TCP and of another protocol.
    #[must_use]
    pub fn mixes_protocols(&self) -> bool {
        self.has_others_than_tcp() && self.kinds.keys().any(|kind| kind.protocol.is_tcp())
    }

    /// Returns all calls that failed, as one group.
    #[must_use]
    pub fn failures(&self) -> Group {
        let mut all = self.failed_fast.clone();
        for group in self.failed.values() {
            all.merge(group);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::PortRange;
    use crate::{connect::SourcePort, fixtures::connect_from};

    #[test]
    fn every_connect_is_in_one_group() {
        let mut summary = Summary::default();
        summary.record(&connect_from(20_000));
        summary.record(&connect_from(20_001));
        summary.record(&connect_from(20_003));
        summary.record(&Connect {
            port: SourcePort::Bound(80),
            ..connect_from(0)
        });
        summary.record(&Connect {
            port: SourcePort::None,
            errno: 99,
            ..connect_from(0)
        });
        let counts =
            [&summary.even, &summary.odd, &summary.bound].map(|group| group.connect.count());
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!(summary.failures().connect.count(), 1);
        assert_eq!(
            summary.connects,
            counts.iter().sum::<u64>() + summary.failures().connect.count()
        );
        assert_eq!(summary.first_pass.connect.count(), 1);
        assert_eq!(summary.second_pass.connect.count(), 2);
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut summary = Summary::default();
        for number in 1..10_000_u16 {
            let range = Some(SearchRange {
                ports: PortRange {
                    low: number,
                    high: u16::MAX,
                },
                by_parity: false,
            });
            summary.record(&Connect {
                errno: i32::from(number),
                range,
                ..connect_from(0)
            });
        }
        assert!(summary.failed.len() <= MOST_KINDS + 1 && summary.ranges.len() <= MOST_KINDS);
        assert_eq!(summary.failures().connect.count(), 9_999);
    }

    #[test]
    fn fast_connects_are_in_the_groups_of_their_ports() {
        let mut summary = Summary::default();
        summary.record(&connect_from(20_000));
        summary.record(&connect_from(20_001));
        summary.merge_fast(&crate::fixtures::below_minimum(5));
        assert_eq!((summary.connects, summary.fast), (12, 10));
        assert_eq!(summary.even.connect.count(), 6);
        assert!(!summary.even.connect.has_percentiles());
        assert!(summary.odd.connect.has_percentiles(), "none of these came");
        let failed = summary.failures();
        assert_eq!((failed.connect.count(), failed.search.count()), (5, 0));
        assert!(!failed.connect.has_percentiles());
    }
}
