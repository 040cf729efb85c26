//! The connect() calls of one report, by port choice.

use std::collections::BTreeMap;

use super::{Group, Precision, key::PortChoiceKey, summary::MOST_KINDS};
use crate::connect::Connect;

/// Calls by port choice, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct PortChoices {
    known: BTreeMap<PortChoiceKey, ChosenPorts>,
    /// Calls beyond `MOST_KINDS` choices, for example if each socket has a range of another width.
    others: Option<ChosenPorts>,
}

/// The calls with one port choice.
#[derive(Clone, Debug)]
pub struct ChosenPorts {
    /// All of these calls.
    pub group: Group,
    /// Number of them that failed.
    pub failed: u64,
}

impl PortChoices {
    /// Adds one connect(). A call that failed before the port search has no port choice.
    pub fn record(&mut self, connect: &Connect) {
        let Some(choice) = PortChoiceKey::of(connect) else {
            return;
        };
        let chosen = self.chosen(choice);
        chosen.group.record(connect);
        chosen.failed += u64::from(connect.errno != 0);
    }

    /// Adds successful calls of one choice, with fine percentiles.
    pub fn merge(&mut self, choice: Option<PortChoiceKey>, group: &Group) {
        if let Some(choice) = choice {
            self.chosen(choice).group.merge(group);
        }
    }

    fn chosen(&mut self, choice: PortChoiceKey) -> &mut ChosenPorts {
        if self.known.len() < MOST_KINDS {
            self.known.entry(choice).or_insert_with(ChosenPorts::new)
        } else {
            match self.known.get_mut(&choice) {
                Some(known) => known,
                None => self.others.get_or_insert_with(ChosenPorts::new),
            }
        }
    }

    /// Returns the choices, the one with the most calls first; those that were not kept apart come last, as `None`.
    #[must_use]
    pub fn all(&self) -> Vec<(Option<PortChoiceKey>, &ChosenPorts)> {
        let mut all: Vec<_> = self
            .known
            .iter()
            .map(|(&choice, chosen)| (Some(choice), chosen))
            .collect();
        all.sort_by_key(|(_, chosen)| std::cmp::Reverse(chosen.group.connect.count()));
        all.extend(self.others.iter().map(|others| (None, others)));
        all
    }
}

impl ChosenPorts {
    fn new() -> Self {
        Self {
            group: Group::new(Precision::Coarse),
            failed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{PortChoice, PortRange, SearchRange},
        fixtures::connect_from,
    };

    fn of_width(width: u16) -> Connect {
        Connect {
            port_choice: Some(PortChoice::Range),
            range: Some(SearchRange {
                ports: PortRange {
                    low: 20_000,
                    high: 20_000 + width - 1,
                },
                by_parity: false,
            }),
            ..connect_from(20_000)
        }
    }

    #[test]
    fn the_most_connects_come_first() {
        let mut port_choices = PortChoices::default();
        port_choices.record(&connect_from(20_000));
        port_choices.record(&of_width(500));
        let failed = Connect {
            errno: libc::EADDRNOTAVAIL,
            scanned: Some(500),
            ..of_width(500)
        };
        port_choices.record(&failed);
        port_choices.record(&Connect {
            port_choice: None,
            ..connect_from(20_000)
        });
        let all = port_choices.all();
        let found: Vec<_> = all
            .iter()
            .map(|(choice, chosen)| {
                let choice = choice.unwrap();
                let count = chosen.group.connect.count();
                (choice.port_choice, choice.width, count, chosen.failed)
            })
            .collect();
        assert_eq!(
            found,
            [
                (PortChoice::Range, 500, 2, 1),
                (PortChoice::Default, 0, 1, 0)
            ]
        );
        assert_eq!(all[0].1.group.scanned.mean(), Some(250.5));
    }

    #[test]
    fn memory_is_bounded_and_no_connect_is_left_out() {
        let mut port_choices = PortChoices::default();
        for width in 1..=1_000 {
            port_choices.record(&of_width(width));
        }
        let all = port_choices.all();
        assert_eq!(all.len(), MOST_KINDS + 1);
        let (last, others) = all.last().unwrap();
        assert!(last.is_none());
        assert_eq!(others.group.connect.count(), 1_000 - MOST_KINDS as u64);
    }
}
