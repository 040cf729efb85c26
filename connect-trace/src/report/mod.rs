//! What a report says, and the formats that it is written in. Nothing here knows of BPF.

mod errno;
pub mod text;

use std::time::{Duration, SystemTime};

use connect_trace_common::CheckEstablished;

use crate::{accounting::Accounting, aggregate::Summary};

/// One report: of the whole run, or of an interval of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// How the programs are attached, in words.
    pub attached: String,
    /// When it was made.
    pub at: SystemTime,
    /// The time that it covers.
    pub elapsed: Duration,
    /// The connects of that time.
    pub summary: Summary,
    /// What was seen of `__inet{,6}_check_established` in that time.
    pub checks: Checks,
    /// Every call since the probes were attached.
    pub accounting: Accounting,
}

/// What was seen of `__inet{,6}_check_established`.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// The mode of watching: `sampled`, `time`, `count` or `off`.
    pub mode: String,
    /// Number of bursts that have ended, where it is sampled.
    pub bursts: u64,
    /// How long they lasted.
    pub watched: Duration,
    /// What was seen, by function.
    pub functions: Vec<(&'static str, CheckEstablished)>,
}
