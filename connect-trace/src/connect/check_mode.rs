//! The mode in which the candidate checks of a port search are watched.

use std::fmt;

/// How closely `__inet{,6}_check_established` are watched, and at what cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckMode {
    /// Measures their latency in short bursts; nothing runs in between.
    #[default]
    Sampled,
    /// Measures the latency of every call, and counts the calls of each connect(): on an exhausted range a connect()
    /// that gets an odd port takes four to six times as long.
    Time,
    /// Counts the calls of each connect(): such a connect() takes two to three times as long.
    Count,
    /// Does not watch them.
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
