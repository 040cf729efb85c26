//! The connect() calls since the start, by the labels of the metrics, in bounded memory.

use std::collections::BTreeMap;

use connect_trace_common::{FastGroup, FastKind, FastSums};

#[cfg(feature = "native-histograms")]
use super::native;
use crate::connect::{Connect, Family, Outcome, Pass, PortChoice};

/// Largest number of label sets of one metric; connections beyond are counted under [`OTHER`].
pub const MOST_LABEL_SETS: usize = 200;

/// The label value of what has no room of its own.
pub const OTHER: &str = "other";

/// The IP version of the packets, OpenTelemetry's `network.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// IPv4, also from an IPv6 socket.
    V4,
    /// IPv6.
    V6,
}

impl Network {
    /// Both, in the order of arrays by network.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    fn of(connect: &Connect) -> Self {
        match connect.family {
            Family::V4 | Family::Mapped => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

/// The parity of the source port that a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parity {
    /// An even port.
    Even,
    /// An odd port.
    Odd,
    /// No search, or none that found a port.
    None,
}

impl Parity {
    /// All, in the order of arrays by parity.
    pub const ALL: [Self; 3] = [Self::Even, Self::Odd, Self::None];

    /// Returns the label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Odd => "odd",
            Self::None => "none",
        }
    }

    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Even => Self::Even,
            Outcome::Odd => Self::Odd,
            Outcome::Bound | Outcome::Failed => Self::None,
        }
    }
}

/// How a port search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Search {
    /// With a port of the first pass.
    First,
    /// With a port of the second pass.
    Second,
    /// With a port of a search that has one pass.
    Single,
    /// Without a port: all were taken.
    Exhausted,
}

impl Search {
    /// All, in the order of arrays by search.
    pub const ALL: [Self; 4] = [Self::First, Self::Second, Self::Single, Self::Exhausted];

    /// Returns the label value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Single => "single",
            Self::Exhausted => "exhausted",
        }
    }

    /// Returns the end of the search of a connect(), if it made one whose passes are known.
    fn of(connect: &Connect) -> Option<Self> {
        let is_exhausted = connect.errno == libc::EADDRNOTAVAIL
            && connect.port.number().is_none()
            && connect.search_ns.is_some();
        if is_exhausted {
            return Some(Self::Exhausted);
        }
        Some(match connect.pass()? {
            Pass::First => Self::First,
            Pass::Second => Self::Second,
            Pass::Only => Self::Single,
        })
    }
}

/// The labels by which connect() calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    /// The network.
    pub network: Network,
    /// The port choice; `None` if the call failed before the search.
    pub strategy: Option<PortChoice>,
    /// 0, or the errno.
    pub errno: i32,
}

/// Upper ends of the buckets of candidate ports; the last bucket has all that is above.
pub const CANDIDATES: [u32; 6] = [1, 10, 100, 1_000, 10_000, 65_536];

/// A histogram of the candidate ports that searches went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Number of searches by [`CANDIDATES`].
    pub buckets: [u64; CANDIDATES.len()],
    /// Number of candidate ports of all of these searches.
    pub ports: u64,
}

impl Candidates {
    /// Returns the number of searches.
    #[must_use]
    pub fn searches(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn record(&mut self, ports: u32) {
        let bucket = CANDIDATES.partition_point(|&end| end < ports);
        self.buckets[bucket.min(CANDIDATES.len() - 1)] += 1;
        self.ports += u64::from(ports);
    }
}

/// The connect() calls with a record since the start; [`with_fast`](Self::with_fast) adds those without one.
#[derive(Clone, Debug)]
pub struct Totals {
    connects: BTreeMap<Labels, u64>,
    /// Number of calls whose label sets had no room.
    overflown: u64,
    times: [[FastGroup; Parity::ALL.len()]; Network::ALL.len()],
    searches: [u64; Search::ALL.len()],
    candidates: [Candidates; PortChoice::INDICES],
    #[cfg(feature = "native-histograms")]
    recorded: native::Recorded,
}

impl Default for Totals {
    /// Creates counters that are zero. Those of calls that succeed or find no port exist from the start: a counter that
    /// begins with its first call shows no increase by it.
    fn default() -> Self {
        let errnos = [0, libc::EADDRNOTAVAIL].into_iter();
        let labels = errnos.flat_map(|errno| {
            Network::ALL.into_iter().flat_map(move |network| {
                PortChoice::ALL.map(|choice| Labels {
                    network,
                    strategy: Some(choice),
                    errno,
                })
            })
        });
        Self {
            connects: labels.map(|labels| (labels, 0)).collect(),
            overflown: 0,
            times: Default::default(),
            searches: Default::default(),
            candidates: Default::default(),
            #[cfg(feature = "native-histograms")]
            recorded: native::Recorded::default(),
        }
    }
}

impl Totals {
    /// Adds a connect().
    pub fn record(&mut self, connect: &Connect) {
        let network = Network::of(connect);
        self.count(
            Labels {
                network,
                strategy: connect.port_choice,
                errno: connect.errno,
            },
            1,
        );
        let parity = Parity::of(Outcome::of(connect));
        let group = &mut self.times[network as usize][parity as usize];
        group.connect.record(connect.connect_ns);
        #[cfg(feature = "native-histograms")]
        self.recorded.0[network as usize][parity as usize].record(connect.connect_ns);
        if let Some(ns) = connect.search_ns {
            group.search.record(ns);
        }
        if let Some(search) = Search::of(connect) {
            self.searches[search as usize] += 1;
        }
        if let Some(scanned) = connect.scanned {
            self.candidates[PortChoice::index(connect.port_choice)].record(scanned);
        }
    }

    fn count(&mut self, labels: Labels, more: u64) {
        if let Some(count) = self.connects.get_mut(&labels) {
            *count += more;
        } else if self.connects.len() < MOST_LABEL_SETS {
            self.connects.insert(labels, more);
        } else {
            self.overflown += more;
        }
    }

    /// Adds the calls without a record, which the kernel summed up since the start. `has_single_pass` says that searches
    /// of a socket's own range have one pass on this kernel.
    #[must_use]
    pub fn with_fast(mut self, sums: &FastSums, has_single_pass: bool) -> Self {
        for (kind, group) in sums.groups().filter(|(_, group)| group.connect.count > 0) {
            let network = if kind.has(FastKind::V6) {
                Network::V6
            } else {
                Network::V4
            };
            let parity = Parity::of(Outcome::of_kind(kind));
            self.times[network as usize][parity as usize].add(group);
            let count = group.connect.count;
            self.count(
                Labels {
                    network,
                    strategy: Some(strategy_of(kind)),
                    errno: 0,
                },
                count,
            );
            if parity != Parity::None {
                let search = match (
                    kind.has(FastKind::OWN_RANGE) && has_single_pass,
                    kind.has(FastKind::OTHER_PARITY),
                ) {
                    (true, _) => Search::Single,
                    (false, false) => Search::First,
                    (false, true) => Search::Second,
                };
                self.searches[search as usize] += count;
            }
        }
        self
    }

    /// Returns the numbers of calls by labels.
    pub fn connects(&self) -> impl Iterator<Item = (&Labels, u64)> {
        self.connects.iter().map(|(labels, count)| (labels, *count))
    }

    /// Returns the number of calls whose label sets had no room.
    #[must_use]
    pub fn overflown(&self) -> u64 {
        self.overflown
    }

    /// Returns the times in connect() and in the port search, by network and parity.
    pub fn times(&self) -> impl Iterator<Item = (Network, Parity, &FastGroup)> {
        Network::ALL
            .into_iter()
            .zip(&self.times)
            .flat_map(|(network, groups)| {
                let groups = Parity::ALL.into_iter().zip(groups);
                groups.map(move |(parity, group)| (network, parity, group))
            })
    }

    /// Returns the times of the calls with a record.
    #[cfg(feature = "native-histograms")]
    pub(super) fn recorded(&self) -> &native::Recorded {
        &self.recorded
    }

    /// Returns the numbers of searches by their ends.
    pub fn searches(&self) -> impl Iterator<Item = (Search, u64)> {
        Search::ALL.into_iter().zip(self.searches)
    }

    /// Returns the candidate ports by strategy, `None` last, of the searches with a record.
    pub fn candidates(&self) -> impl Iterator<Item = (Option<PortChoice>, &Candidates)> {
        let choices = PortChoice::ALL.map(Some).into_iter().chain([None]);
        choices.zip(&self.candidates)
    }
}

/// Returns the label value of a port choice.
pub(super) fn strategy_name(choice: Option<PortChoice>) -> &'static str {
    choice.map_or("none", PortChoice::name)
}

/// Returns the port choice of the successful calls of a kind.
fn strategy_of(kind: FastKind) -> PortChoice {
    match (
        kind.has(FastKind::PORT_BOUND),
        kind.has(FastKind::OWN_RANGE),
        kind.has(FastKind::LOCKED),
    ) {
        (true, _, true) => PortChoice::ExplicitPort,
        (true, _, false) => PortChoice::Bind,
        (false, true, _) => PortChoice::Range,
        (false, false, true) => PortChoice::Address,
        (false, false, false) => PortChoice::Default,
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;
    use crate::{connect::SourcePort, fixtures::connect_from};

    #[test]
    fn memory_is_bounded_and_the_rest_is_counted() {
        let mut totals = Totals::default();
        for errno in 1..=500 {
            totals.record(&Connect {
                errno,
                port: SourcePort::None,
                ..connect_from(0)
            });
        }
        assert_eq!(totals.connects().count(), MOST_LABEL_SETS);
        let counted: u64 = totals.connects().map(|(_, count)| count).sum();
        let zero = Totals::default().connects().count();
        // EADDRNOTAVAIL has a room from the start.
        assert_eq!(counted, (MOST_LABEL_SETS - zero) as u64 + 1);
        assert_eq!(counted + totals.overflown(), 500);
        let timed: u64 = totals.times().map(|(.., group)| group.connect.count).sum();
        assert_eq!(timed, 500, "times have few labels");
    }

    #[test]
    fn a_call_is_in_the_series_of_its_port() {
        let mut totals = Totals::default();
        totals.record(&connect_from(20_000));
        totals.record(&connect_from(20_001));
        totals.record(&Connect {
            errno: libc::EADDRNOTAVAIL,
            port: SourcePort::None,
            ..connect_from(0)
        });
        let searches: Vec<u64> = totals.searches().map(|(_, count)| count).collect();
        assert_eq!(searches[..3], [1, 1, 0]);
        let counts = totals.times().map(|(.., group)| group.connect.count);
        assert_eq!(counts.collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0]);
        let made = totals.connects().filter(|(_, count)| *count > 0);
        assert_eq!(made.count(), 2, "by errno");
    }

    #[test]
    fn fast_calls_are_counted_by_the_kernels_bits() {
        let mut sums = FastSums::zeroed();
        for (kind, count) in [
            (0, 5),
            (FastKind::ODD | FastKind::OTHER_PARITY, 3),
            (FastKind::OWN_RANGE | FastKind::V6, 2),
            (FastKind::PORT_BOUND | FastKind::LOCKED, 1),
        ] {
            sums.0[kind as usize].connect.count = count;
        }
        let totals = Totals::default().with_fast(&sums, true);
        let searches: Vec<u64> = totals.searches().map(|(_, count)| count).collect();
        assert_eq!(searches, [5, 3, 2, 0]);
        let by_strategy: Vec<_> = totals
            .connects()
            .filter(|(_, count)| *count > 0)
            .map(|(labels, count)| {
                (
                    labels.network.name(),
                    labels.strategy.unwrap().name(),
                    count,
                )
            })
            .collect();
        assert_eq!(
            by_strategy,
            [
                ("ipv4", "explicit-port", 1),
                ("ipv4", "default", 8),
                ("ipv6", "range", 2)
            ]
        );
        let counts = totals.times().map(|(.., group)| group.connect.count);
        assert_eq!(counts.collect::<Vec<_>>(), [5, 3, 1, 2, 0, 0]);
        let two = Totals::default().with_fast(&sums, false);
        assert_eq!(two.searches().next().unwrap().1, 7);
    }

    #[test]
    fn a_bucket_of_candidates_includes_its_end() {
        let mut candidates = Candidates::default();
        for ports in [1, 2, 10, 11, 65_536, 70_000] {
            candidates.record(ports);
        }
        assert_eq!(candidates.buckets, [1, 2, 1, 0, 0, 2]);
        assert_eq!(candidates.ports, 135_560);
    }
}
