//! The connects of one report, by what became of their source ports.

use std::collections::BTreeMap;

use super::Latency;
use crate::event::{Connect, Pass, PortRange, SourcePort};

/// Times of connect() and of the port search within it.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Time in `tcp_v4_connect` or `tcp_v6_connect`.
    pub connect: Latency,
    /// Time in `__inet_hash_connect`.
    pub search: Latency,
}

impl Group {
    fn record(&mut self, connect: &Connect) {
        self.connect.record(connect.connect_ns);
        if let Some(ns) = connect.search_ns {
            self.search.record(ns);
        }
    }
}

/// Most ranges and errnos that are kept apart. The kernel's connect() knows fewer errnos, and a host
/// has few ranges, unless somebody gives every socket its own.
pub const MOST_KINDS: usize = 32;

/// The connects of one report.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Every connect.
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
    /// Failed, by errno; errnos beyond [`MOST_KINDS`] of them are counted under 0.
    pub failed: BTreeMap<i32, Group>,
    /// Connects by the range that was searched, up to [`MOST_KINDS`] ranges.
    pub ranges: BTreeMap<PortRange, u64>,
    /// Connects that failed before the port search.
    pub without_search: u64,
    /// Connects during which `__inet{,6}_check_established` was watched.
    pub checks_watched: u64,
    /// Calls of `__inet{,6}_check_established` by connects that counted them.
    pub checks: u64,
    /// Connects that counted them.
    pub checks_counted: u64,
}

impl Summary {
    /// Adds one connect.
    pub fn record(&mut self, connect: &Connect) {
        self.connects += 1;
        self.checks_watched += u64::from(connect.checks_watched);
        if let Some(checks) = connect.checks {
            self.checks += u64::from(checks);
            self.checks_counted += 1;
        }
        match connect.range {
            Some(range) => {
                if self.ranges.len() < MOST_KINDS || self.ranges.contains_key(&range) {
                    *self.ranges.entry(range).or_default() += 1;
                }
            }
            None => self.without_search += u64::from(connect.source.is_none()),
        }
        if connect.errno != 0 {
            let known = self.failed.len() < MOST_KINDS || self.failed.contains_key(&connect.errno);
            let errno = if known { connect.errno } else { 0 };
            self.failed.entry(errno).or_default().record(connect);
            return;
        }
        match connect.port {
            SourcePort::Searched(port) if port % 2 == 0 => self.even.record(connect),
            SourcePort::Searched(_) => self.odd.record(connect),
            SourcePort::Bound(_) | SourcePort::None => self.bound.record(connect),
        }
        match connect.pass() {
            Some(Pass::First) => self.first_pass.record(connect),
            Some(Pass::Second) => self.second_pass.record(connect),
            Some(Pass::Only) => self.only_pass.record(connect),
            None => {}
        }
    }

    /// Connects that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed
            .values()
            .map(|group| group.connect.count())
            .sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::event::{Comm, Family};

    /// A successful connect of 20 µs with a search of 5 µs, on the range 20000 to 21999.
    pub(crate) fn example(port: u16) -> Connect {
        Connect {
            start_ns: 1_000,
            connect_ns: 20_000,
            search_ns: Some(5_000),
            family: Family::V4,
            source: Some([127, 0, 0, 1].into()),
            port: SourcePort::Searched(port),
            destination: Some(([127, 0, 0, 1], 443).into()),
            errno: 0,
            pid: 1,
            tid: 1,
            comm: Comm([0; 16]),
            uid: 0,
            netns: Some(4_026_531_840),
            cgroup_id: 1,
            range: Some(PortRange {
                low: 20_000,
                high: 21_999,
                by_parity: true,
            }),
            checks: None,
            checks_watched: false,
        }
    }

    #[test]
    fn every_connect_is_in_one_group() {
        let mut summary = Summary::default();
        summary.record(&example(20_000));
        summary.record(&example(20_001));
        summary.record(&example(20_003));
        summary.record(&Connect {
            port: SourcePort::Bound(80),
            ..example(0)
        });
        summary.record(&Connect {
            port: SourcePort::None,
            errno: 99,
            ..example(0)
        });
        let counts =
            [&summary.even, &summary.odd, &summary.bound].map(|group| group.connect.count());
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!(summary.failures(), 1);
        assert_eq!(
            summary.connects,
            counts.iter().sum::<u64>() + summary.failures()
        );
        assert_eq!(summary.first_pass.connect.count(), 1);
        assert_eq!(summary.second_pass.connect.count(), 2);
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut summary = Summary::default();
        for number in 1..10_000_u16 {
            let range = Some(PortRange {
                low: number,
                high: u16::MAX,
                by_parity: false,
            });
            summary.record(&Connect {
                errno: i32::from(number),
                range,
                ..example(0)
            });
        }
        assert!(summary.failed.len() <= MOST_KINDS + 1 && summary.ranges.len() <= MOST_KINDS);
        assert_eq!(summary.failures(), 9_999);
    }
}
