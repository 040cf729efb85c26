//! The connects that nearly all are like: those that found a port. Each is counted once here, by the range,
//! the strategy and the parity of its port, and comes into all groups that have it when there is a report.

use super::{Candidates, Group, Parity, Summary, key::Choice};
use crate::event::{Connect, PortRange, SourcePort, Strategy};

/// Most kinds that are kept, up to 1 MiB each. A host has few, unless sockets have ranges of their own.
const MOST: usize = 16;

/// What is yet to be put into a [`Summary`], in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    kinds: Vec<Kind>,
    /// Index of the one that came last.
    latest: usize,
}

/// Connects that found a port, in one range and by one strategy.
#[derive(Clone, Debug)]
struct Kind {
    like: Like,
    choice: Option<Choice>,
    /// By even and odd port.
    groups: [Group; 2],
    candidates: Candidates,
}

/// What decides, with the port's parity, in which groups such a connect is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Like {
    range: PortRange,
    strategy: Option<Strategy>,
    address_bound: Option<bool>,
}

impl Kinds {
    /// Takes a connect: to be put into this summary, or put there at once.
    pub fn record(&mut self, connect: &Connect, summary: &mut Summary) {
        let (SourcePort::Searched(port), Some(range), 0, None, false) = (
            connect.port,
            connect.range,
            connect.errno,
            connect.checks,
            connect.checks_watched,
        ) else {
            return summary.record(connect);
        };
        let like = Like {
            range,
            strategy: connect.strategy,
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

    /// Makes its range and strategy known in the summary, in the order in which they come, and keeps those
    /// like it from now on, if there is room.
    fn first_of(&mut self, like: Like, connect: &Connect, summary: &mut Summary) {
        if self.kinds.len() < MOST {
            self.latest = self.kinds.len();
            self.kinds.push(Kind {
                like,
                choice: Choice::of(connect),
                groups: Default::default(),
                candidates: Candidates::default(),
            });
        }
        summary.record(connect);
    }

    /// Puts what has come into the summary, and starts anew.
    pub fn settle(&mut self, summary: &mut Summary) {
        for kind in std::mem::take(self).kinds {
            summary.candidates.merge(&kind.candidates);
            for (parity, group) in [Parity::Even, Parity::Odd].into_iter().zip(&kind.groups) {
                summary.merge_found(parity, kind.like.range, kind.choice, group);
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
    use crate::{aggregate::summary::tests::example, event::tests::any_connect};

    /// All that a report is made from.
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
        let strategies = summary.strategies.all();
        let chosen = strategies.iter().map(|(_, chosen)| &chosen.group);
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
        let choices: Vec<_> = strategies
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

    /// Such as there are on a host, and a few of any sort.
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
            range: Some(PortRange {
                low: 20_000 + width % 3,
                high: 20_100 + width,
                by_parity: !own,
            }),
            strategy: Some(if own {
                Strategy::Range
            } else {
                Strategy::Default
            }),
            address_bound: Some(bound),
            checks_watched: bound,
            scanned: Some(u32::from(width) * 40),
            ..example(20_002 + u16::from(odd))
        });
        proptest::collection::vec(prop_oneof![8 => usual, 1 => any_connect()], 0..100)
    }

    proptest! {
        // Histograms are slow to compare without optimisation.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_summary_is_the_same_as_if_each_had_been_put_there_at_once(connects in connects()) {
            let (mut at_once, mut settled) = (Summary::default(), Summary::default());
            let mut kinds = Kinds::default();
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
