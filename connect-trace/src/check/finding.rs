//! A finding: one thing that was checked, and the result.

use anyhow::Error;
use serde::Serialize;
use serde_json::Value;

use crate::kernel::requirement::MissingRequirement;

/// A checked thing, and the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The group that it belongs to.
    pub group: Group,
    /// Name of the finding: the same on every host.
    pub name: &'static str,
    /// Result of the check.
    pub state: State,
    /// True if a trace works only with this.
    pub required: bool,
    /// The value that was found, for people; empty if nothing was found.
    pub value: String,
    /// The value for programs, if it has parts or is a number.
    pub data: Value,
    /// Consequence of the value, or the reason why it is missing.
    pub note: Option<String>,
    /// Remedy; for something that could not be checked, a way to check it.
    pub remedy: Option<String>,
    /// The first version of Linux that has it, if known.
    pub since: Option<&'static str>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Present.
    Ok,
    /// Present, but partly without effect.
    Limited,
    /// Missing.
    Missing,
    /// Not checked, because that was impossible.
    Unknown,
}

impl State {
    /// Returns the word for the state.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// Subject of a group of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Privileges of this process.
    Privileges,
    /// The kernel's types and functions.
    Types,
    /// Attaching the programs.
    Attach,
    /// Settings of the port search.
    Ports,
}

impl Group {
    /// Returns the heading of the group.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Privileges => "Privileges",
            Self::Types => "Types and symbols",
            Self::Attach => "Attaching",
            Self::Ports => "Source ports (of this network namespace)",
        }
    }
}

impl Finding {
    /// Creates a finding of something that is present.
    pub(super) fn ok(group: Group, name: &'static str, value: impl Into<String>) -> Self {
        Self {
            group,
            name,
            state: State::Ok,
            required: false,
            value: value.into(),
            data: Value::Null,
            note: None,
            remedy: None,
            since: None,
        }
    }

    /// Creates a finding of something that is present with a limitation, which the note states.
    pub(super) fn limited(
        group: Group,
        name: &'static str,
        value: impl Into<String>,
        note: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Limited,
            ..Self::ok(group, name, value).note(note)
        }
    }

    /// Creates a finding of something that is missing. The error gives the reason, and the remedy if it is a
    /// [`MissingRequirement`].
    pub(super) fn missing(group: Group, name: &'static str, error: &Error) -> Self {
        let finding = Self {
            state: State::Missing,
            ..Self::ok(group, name, "")
        };
        finding.because(error)
    }

    /// Creates a finding of something that could not be checked; `takes` is a way to check it.
    pub(super) fn unknown(
        group: Group,
        name: &'static str,
        note: impl Into<String>,
        takes: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Unknown,
            ..Self::ok(group, name, "").note(note).remedy(takes)
        }
    }

    /// Adds the reason of an error as the note, and its remedy if it has one.
    pub(super) fn because(self, error: &Error) -> Self {
        match error.downcast_ref::<MissingRequirement>() {
            Some(lack) => {
                let text = format!("{error:#}");
                // The remedy has a field of its own.
                let reason = text.strip_suffix(&format!(": {}", lack.remedy));
                self.note(reason.unwrap_or(&text)).remedy(lack.remedy)
            }
            None => self.note(format!("{error:#}")),
        }
    }

    pub(super) fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    pub(super) fn data(self, data: Value) -> Self {
        Self { data, ..self }
    }

    pub(super) fn note(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }

    pub(super) fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    pub(super) fn since(self, since: &'static str) -> Self {
        Self {
            since: Some(since),
            ..self
        }
    }

    /// Returns whether this finding keeps a trace from working.
    pub(super) fn blocks(&self) -> bool {
        self.required && matches!(self.state, State::Missing | State::Unknown)
    }

    /// Returns the name of the finding for people.
    pub(super) fn title(&self) -> String {
        self.name.replace('_', " ")
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn the_remedy_of_an_error_is_found_under_its_contexts() {
        let lack: Result<(), Error> =
            Err(MissingRequirement::new("no btf", "boot another kernel").into());
        let error = lack.context("attach").unwrap_err();
        let finding = Finding::missing(Group::Types, "btf", &error);
        assert_eq!(finding.note.as_deref(), Some("attach: no btf"));
        assert_eq!(finding.remedy.as_deref(), Some("boot another kernel"));

        let plain = anyhow!("inner").context("outer");
        let finding = Finding::missing(Group::Types, "btf", &plain);
        assert_eq!(finding.note.as_deref(), Some("outer: inner"));
        assert_eq!(finding.remedy, None);
    }
}
