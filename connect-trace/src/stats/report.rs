//! What a report is made from: the connections of its time, and what the kernel's side knows.

use std::time::{Duration, SystemTime};

use connect_trace_common::CheckEstablished;

use super::{
    BelowMinimum, Precision, Summary, accounting::Accounting, by::By, exhaustion::Exhausted,
    groups::Top,
};
use crate::{
    connect::CheckMode,
    overhead::{Overhead, history::LimitUse},
};

/// One report: of the whole run, or of an interval of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// How the programs are attached, in words.
    pub attached: String,
    /// The options that say which connects are wanted; none for all.
    pub filters: Vec<String>,
    /// When it was made.
    pub at: SystemTime,
    /// The time that it covers.
    pub elapsed: Duration,
    /// The connects of that time.
    pub summary: Summary,
    /// What the groups are split by.
    pub by: By,
    /// How exact the groups' percentiles are.
    pub precision: Precision,
    /// The connects of that time by `by`.
    pub top: Top,
    /// What was seen of `__inet{,6}_check_established` since the probes were attached.
    pub checks: Checks,
    /// Every call since the probes were attached.
    pub accounting: Accounting,
    /// Where ports ran out in that time.
    pub exhausted: Exhausted,
    /// By how many nanoseconds the time of day was set within that time; `None` where it was not.
    pub clock_step_ns: Option<i128>,
    /// What the trace cost in that time, where that was asked for.
    pub overhead: Option<Overhead>,
    /// How its budget was kept in that time, where there is one.
    pub budget: Option<LimitUse>,
}

/// What the kernel's side knows when a report is made. All of it counts from the time that the probes
/// were attached, but what it cost. Of the fast connects a report has those that came since the last one.
#[derive(Clone, Debug, Default)]
pub struct KernelSide {
    /// What was seen of `__inet{,6}_check_established`.
    pub checks: Checks,
    /// Every call.
    pub accounting: Accounting,
    /// Those below `--min-latency`, which have no records.
    pub fast: BelowMinimum,
    /// What it cost since the last report; `None` where that is not measured.
    pub overhead: Option<Overhead>,
    /// How its budget was kept since the last report; `None` without one.
    pub budget: Option<LimitUse>,
}

/// What was seen of `__inet{,6}_check_established`.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// How they were watched.
    pub mode: CheckMode,
    /// Number of bursts that have ended, where it is sampled.
    pub bursts: u64,
    /// How long they lasted.
    pub watched: Duration,
    /// What was seen, by function.
    pub functions: Vec<(&'static str, CheckEstablished)>,
}
