//! Contents of a report: the connect() calls of its time, and the data of the kernel's side.

use std::time::{Duration, SystemTime};

use connect_trace_common::CheckEstablished;

use super::{
    BelowMinimum, Ends, EndsAccount, Precision, Summary, TimeWait, accounting::Accounting, by::By,
    exhaustion::Exhausted, filling::Filling, groups::Top, mitigation::Mitigation,
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
    /// The way in which the programs are attached, in words.
    pub attached: String,
    /// The filter options; none if all calls are traced.
    pub filters: Vec<String>,
    /// Time at which the report was made.
    pub at: SystemTime,
    /// Length of the time that the report covers.
    pub elapsed: Duration,
    /// The calls of that time.
    pub summary: Summary,
    /// The key by which the groups are split.
    pub by: By,
    /// Precision of the groups' percentiles.
    pub precision: Precision,
    /// The calls of that time, split by `by`.
    pub top: Top,
    /// Measurements of `__inet{,6}_check_established` since the probes were attached.
    pub checks: Checks,
    /// Candidate ports in TIME_WAIT in that time; `None` if they were not counted.
    pub time_wait: Option<TimeWait>,
    /// The account of every call since the probes were attached.
    pub accounting: Accounting,
    /// Routes whose ports ran out in that time.
    pub exhausted: Exhausted,
    /// Handshakes and ends of that time, if connections were followed.
    pub ends: Option<Ends>,
    /// The account of the connections that were followed since the probes were attached.
    pub ends_account: Option<EndsAccount>,
    /// Nanoseconds by which the time of day was set within that time; `None` if it was not set.
    pub clock_step_ns: Option<i128>,
    /// Overhead of the trace in that time, if it was requested.
    pub overhead: Option<Overhead>,
    /// Use of the overhead limit in that time, if there is one.
    pub budget: Option<LimitUse>,
    /// The mitigation in that time, if there is one.
    pub mitigation: Option<Mitigation>,
    /// The fullest routes at its end, with `--ports`.
    pub filling: Option<Filling>,
}

/// Data of the kernel's side for a report. Checks, account and fast calls count from the time at which the probes were
/// attached. A report contains the fast calls since the last report only.
#[derive(Clone, Debug, Default)]
pub struct KernelSide {
    /// Measurements of `__inet{,6}_check_established`.
    pub checks: Checks,
    /// Candidate ports in TIME_WAIT since the probes were attached; `None` if they were not counted.
    pub time_wait: Option<TimeWait>,
    /// The account of every call.
    pub accounting: Accounting,
    /// Calls below `--min-latency`, which have no records.
    pub fast: BelowMinimum,
    /// The account of the connections that were followed; `None` if none were, or if it is not known.
    pub ends: Option<EndsAccount>,
    /// Overhead since the last report; `None` if it is not measured.
    pub overhead: Option<Overhead>,
    /// Use of the overhead limit since the last report; `None` without a limit.
    pub budget: Option<LimitUse>,
    /// The mitigation since the last report; `None` without one.
    pub mitigation: Option<Mitigation>,
    /// The fullest routes now; `None` without `--ports`.
    pub filling: Option<Filling>,
}

impl KernelSide {
    /// Returns what was counted since an earlier reading: the account, the checks, and the calls without records.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            checks: self.checks.since(&earlier.checks),
            accounting: self.accounting.since(&earlier.accounting),
            fast: self.fast.since(&earlier.fast),
            ends: self
                .ends
                .map(|ends| ends.since(&earlier.ends.unwrap_or_default())),
            ..self.clone()
        }
    }
}

/// Measurements of `__inet{,6}_check_established`.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// The mode of watching.
    pub mode: CheckMode,
    /// Number of bursts that have ended, in sampled mode.
    pub bursts: u64,
    /// Total time of the bursts.
    pub watched: Duration,
    /// Counts and times, by function.
    pub functions: Vec<(&'static str, CheckEstablished)>,
}

impl Checks {
    fn since(&self, earlier: &Self) -> Self {
        let function = |&(name, now): &(&'static str, CheckEstablished)| {
            let before = earlier.functions.iter().find(|(other, _)| *other == name);
            let before = before.map(|(_, seen)| *seen).unwrap_or_default();
            (name, now.since(&before))
        };
        Self {
            mode: self.mode,
            bursts: self.bursts.saturating_sub(earlier.bursts),
            watched: self.watched.saturating_sub(earlier.watched),
            functions: self.functions.iter().map(function).collect(),
        }
    }
}
