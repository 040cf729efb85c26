//! Formats of reports and events: text, one line, and JSON. Nothing in this room knows BPF.

mod account;
pub(crate) mod args;
mod ends;
pub(crate) mod event_line;
pub(crate) mod filling;
mod groups_text;
pub(crate) mod histogram;
pub(crate) mod json;
pub(crate) mod junit;
mod mitigation;
mod names;
pub(crate) mod one_line;
pub mod output;
mod overhead;
mod phases;
mod port_choices;
pub(crate) mod port_map;
pub(crate) mod route_ports;
pub(crate) mod rules;
pub(crate) mod table;
pub(crate) mod text;
mod time_wait;
pub(crate) mod warnings;

pub use self::args::OutputArgs;
use crate::stats::{Group, by::By, report::Report};

impl Report {
    /// Returns every group whose percentiles the text shows, with its name in the text.
    fn shown_groups(&self) -> Vec<(String, &Group)> {
        let mut shown = match self.by {
            By::Parity => text::by_port(&self.summary),
            _ => {
                let groups = self.top.groups.iter();
                groups
                    .map(|named| (names::key(named.key), &named.group))
                    .collect()
            }
        };
        if self.by != By::Errno {
            shown.extend(text::failures(&self.summary));
        }
        shown
    }
}

#[cfg(test)]
pub(crate) mod example;
