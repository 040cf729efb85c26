//! Fast path for the common case: successful connections with a searched port. Each is counted once here, by the range,
//! the port choice and the parity of its port, and added to all its groups when there is a report.

use super::{Candidates, Group, Summary, key::PortChoiceKey};
use crate::connect::{CallKind, Connect, Outcome, PortChoice, SearchRange, SourcePort};

/// Largest number of kinds that are kept, up to 1 MiB each. A host has few, unless sockets have ranges of their own.
const MOST: usize = 16;

/// Calls that are yet to be added to a [`Summary`], in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    kinds: Vec<Kind>,
    /// Index of the kind of the latest call.
    latest: usize,
}

/// Calls that found a port, in one range and with one port choice.
#[derive(Clone, Debug)]
struct Kind {
    like: Like,
    choice: Option<PortChoiceKey>,
    /// Groups for even and for odd ports.
    groups: [Group; 2],
    candidates: Candidates,
}

/// Properties that decide, together with the port's parity, on the groups of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Like {
    kind: CallKind,
    range: SearchRange,
    port_choice: Option<PortChoice>,
    address_bound: Option<bool>,
}

impl Tally {
    /// Counts a connect(), to be added to this summary later, or adds it to the summary at once.
    pub fn record(&mut self, connect: &Connect, summary: &mut Summary) {
        let (SourcePort::Searched(port), Some(range), 0, None, false, None) = (
            connect.port,
            connect.range,
            connect.errno,
            connect.checks,
            connect.checks_watched,
            connect.phases,
        ) else {
            return summary.record(connect);
        };
        let like = Like {
            kind: connect.kind,
            range,
            port_choice: connect.port_choice,
            address_bound: connect.address_bound,
        };
        let is_latest = |kind: &&mut Kind| kind.like == like;
        match self.kinds.get_mut(self.latest).filter(is_latest) {
            Some(kind) => kind.record(port, connect),
            None => self.record_other(like, port, connect, summary),
        }
    }

    /// Takes a connect that is not like the latest one.
    #[cold]
    fn record_other(&mut self, like: Like, port: u16, connect: &Connect, summary: &mut Summary) {
        match self.kinds.iter().position(|kind| kind.like == like) {
            Some(found) => {
                self.latest = found;
                self.kinds[found].record(port, connect);
            }
            None => self.first_of(like, connect, summary),
        }
    }

    /// Adds the first call of a kind to the summary, so that ranges and port choices appear there in the order of their
    /// calls, and keeps the kind for later calls, if there is room.
    fn first_of(&mut self, like: Like, connect: &Connect, summary: &mut Summary) {
        if self.kinds.len() < MOST {
            self.latest = self.kinds.len();
            self.kinds.push(Kind {
                like,
                choice: PortChoiceKey::of(connect),
                groups: Default::default(),
                candidates: Candidates::default(),
            });
        }
        summary.record(connect);
    }

    /// Adds everything that was counted to the summary, and starts again from zero.
    pub fn settle(&mut self, summary: &mut Summary) {
        for kind in std::mem::take(self).kinds {
            summary.candidates.merge(&kind.candidates);
            for (parity, group) in [Outcome::Even, Outcome::Odd].into_iter().zip(&kind.groups) {
                summary.merge_found(kind.like.kind, parity, kind.like.range, kind.choice, group);
            }
        }
    }
}

impl Kind {
    fn record(&mut self, port: u16, connect: &Connect) {
        self.groups[usize::from(port % 2)].record(connect);
        self.candidates.record(connect);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{
        Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };
    use proptest::strategy::Strategy as _;

    use super::*;
    use crate::connect::PortRange;
    use crate::fixtures::{any_connect, connect_from};

    /// Returns everything from which a report is made, as text.
    fn contents(summary: &Summary) -> String {
        let Summary {
            even,
            odd,
            first_pass,
            second_pass,
            only_pass,
            bound,
            ..
        } = summary;
        let mut text = String::new();
        let groups = [even, odd, first_pass, second_pass, only_pass, bound];
        let port_choices = summary.port_choices.all();
        let chosen = port_choices.iter().map(|(_, chosen)| &chosen.group);
        let failed = summary.failed.values();
        for group in groups.into_iter().chain(chosen).chain(failed) {
            text += &format!("{:?}\n", group.scanned);
            for latency in [&group.connect, &group.search] {
                let quantiles = [0.0, 0.5, 0.9, 0.99, 1.0].map(|share| latency.quantile_ns(share));
                let above = quantiles.map(|ns| latency.count_above(ns.unwrap_or(0)));
                let (total, max) = (latency.total_ns(), latency.max_ns());
                text += &format!("{:?} {total} {max:?} ", latency.buckets());
                text += &format!("{} {quantiles:?} {above:?}\n", latency.count());
            }
        }
        let choices: Vec<_> = port_choices
            .iter()
            .map(|(choice, chosen)| (choice, chosen.failed))
            .collect();
        let counts = [
            summary.connects,
            summary.without_search,
            summary.checks,
            summary.checks_counted,
            summary.checks_watched,
            summary.candidates.ports,
            summary.candidates.ns,
            summary.candidates_watched.ports,
            summary.candidates_watched.ns,
        ];
        let errnos: Vec<_> = summary.failed.keys().collect();
        text + &format!("{choices:?} {counts:?} {errnos:?} {:?}", summary.ranges)
    }

    /// Generates calls like those on a host, and a few of any sort.
    fn connects() -> impl proptest::strategy::Strategy<Value = Vec<Connect>> {
        let usual = (
            prop_oneof![0..1_000_u64, 0..100_000_000_u64, any::<u64>()],
            0..8_u16,
            any::<(bool, bool, bool)>(),
            prop_oneof![Just(0), Just(0), Just(99)],
        );
        let usual = usual.prop_map(|(ns, width, (odd, own, bound), errno)| Connect {
            connect_ns: ns,
            search_ns: (width != 3).then_some(ns / 3),
            errno,
            range: Some(SearchRange {
                ports: PortRange {
                    low: 20_000 + width % 3,
                    high: 20_100 + width,
                },
                by_parity: !own,
            }),
            port_choice: Some(if own {
                PortChoice::Range
            } else {
                PortChoice::Default
            }),
            address_bound: Some(bound),
            checks_watched: bound,
            scanned: Some(u32::from(width) * 40),
            ..connect_from(20_002 + u16::from(odd))
        });
        proptest::collection::vec(prop_oneof![8 => usual, 1 => any_connect()], 0..100)
    }

    proptest! {
        // Comparing histograms is slow without optimisation.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_summary_is_the_same_as_if_each_had_been_put_there_at_once(connects in connects()) {
            let (mut at_once, mut settled) = (Summary::default(), Summary::default());
            let mut kinds = Tally::default();
            for (number, connect) in connects.iter().enumerate() {
                at_once.record(connect);
                kinds.record(connect, &mut settled);
                prop_assert!(kinds.kinds.len() <= MOST);
                if number == 50 {
                    kinds.settle(&mut settled);
                }
            }
            kinds.settle(&mut settled);
            prop_assert_eq!(contents(&settled), contents(&at_once));
            prop_assert!(kinds.kinds.is_empty());
        }
    }
}
