//! One thing that was looked at, and what came of it.

use anyhow::Error;
use serde::Serialize;
use serde_json::Value;

use crate::kernel::requirement::MissingRequirement;

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub group: Group,
    /// Its name: the same on every host.
    pub name: &'static str,
    /// What came of it.
    pub state: State,
    /// Whether a trace works only if this is there.
    pub required: bool,
    /// What is there, for people; empty where nothing is.
    pub value: String,
    /// The same for programs, where it has parts or is a number.
    pub data: Value,
    /// What it means, or why it is not there.
    pub note: Option<String>,
    /// What to do about it; for what could not be looked at, what that takes.
    pub remedy: Option<String>,
    /// The first version of Linux that has it, where that is known.
    pub since: Option<&'static str>,
}

/// What came of looking at something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there.
    Ok,
    /// It is there, and something of it does not work.
    Limited,
    /// It is not there.
    Missing,
    /// It could not be looked at.
    Unknown,
}

impl State {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// What findings are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What this process is allowed.
    Privileges,
    /// What the kernel shows of its types and functions.
    Types,
    /// How the programs are attached.
    Attach,
    /// What the search for a source port goes by.
    Ports,
}

impl Group {
    /// Its heading.
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
    /// Something that is there.
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

    /// Something that is there, but for what the note says.
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

    /// Something that is not there, for the reason of an error, which has the remedy too where it is a
    /// [`MissingRequirement`].
    pub(super) fn missing(group: Group, name: &'static str, error: &Error) -> Self {
        let finding = Self {
            state: State::Missing,
            ..Self::ok(group, name, "")
        };
        finding.because(error)
    }

    /// Something that could not be looked at; `takes` is what would let it.
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

    /// With the reason, and the remedy where the error has one.
    pub(super) fn because(self, error: &Error) -> Self {
        match error.downcast_ref::<MissingRequirement>() {
            Some(lack) => {
                let text = format!("{error:#}");
                // The remedy stands by itself.
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

    /// Whether it keeps a trace from working.
    pub(super) fn blocks(&self) -> bool {
        self.required && matches!(self.state, State::Missing | State::Unknown)
    }

    /// Its name for people.
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
