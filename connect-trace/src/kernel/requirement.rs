//! A missing requirement of this kernel or this process, with its remedy: the error that a trace ends with, and a
//! finding of `connect-trace check`, in the same words.

use std::fmt;

/// A requirement that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRequirement {
    /// The missing requirement, and its consequence.
    pub what: String,
    /// A way to meet the requirement.
    pub remedy: &'static str,
    /// True for a limit of this process or its host, which applies to every way to trace.
    pub is_limit: bool,
}

impl MissingRequirement {
    /// Creates a missing requirement with its remedy.
    pub fn new(what: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            what: what.into(),
            remedy,
            is_limit: false,
        }
    }

    /// Creates a limit that was met, with its remedy.
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
