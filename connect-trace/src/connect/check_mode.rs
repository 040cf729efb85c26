//! How much of the candidate checks of a port search is watched.

use std::fmt;

/// What is paid for watching `__inet{,6}_check_established`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckMode {
    /// Their latency in short bursts; nothing in between.
    #[default]
    Sampled,
    /// The latency of every call, and how many each connect() makes: an odd connect() on an exhausted
    /// range takes four to six times as long.
    Time,
    /// How many calls each connect() makes: such a connect() takes two to three times as long.
    Count,
    /// Nothing.
    Off,
}

impl CheckMode {
    /// Returns whether each connect() counts its calls.
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(self, Self::Time | Self::Count)
    }

    /// Returns its name on the command line, in JSON and in recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sampled => "sampled",
            Self::Time => "time",
            Self::Count => "count",
            Self::Off => "off",
        }
    }

    /// Returns the mode with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        const ALL: [CheckMode; 4] = [
            CheckMode::Sampled,
            CheckMode::Time,
            CheckMode::Count,
            CheckMode::Off,
        ];
        ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for CheckMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
