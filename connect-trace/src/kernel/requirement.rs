//! What this kernel or this process lacks, with its remedy: the error that a trace ends with, and
//! what `connect-trace check` finds, in the same words.

use std::fmt;

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRequirement {
    /// What is missing, and what that means.
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// True for a limit of this process or its host, which each way to trace would meet.
    pub is_limit: bool,
}

impl MissingRequirement {
    /// Something that is missing, with its remedy.
    pub fn new(what: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            what: what.into(),
            remedy,
            is_limit: false,
        }
    }

    /// A limit that was met, with its remedy.
    pub fn limit(what: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            is_limit: true,
            ..Self::new(what, remedy)
        }
    }
}

impl fmt::Display for MissingRequirement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.what, self.remedy)
    }
}

impl std::error::Error for MissingRequirement {}
