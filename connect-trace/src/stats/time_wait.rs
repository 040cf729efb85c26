//! The candidate ports in TIME_WAIT that searches met.

use connect_trace_common::counters::TimeWaitCounts;

use crate::connect::TimeWaitSettings;

/// Candidate ports in TIME_WAIT, counted by `--time-wait`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeWait {
    /// The counts of the kernel's side.
    pub counts: TimeWaitCounts,
    /// Runs of the program that the kernel skipped since the probes were attached; `None` if it does not count them.
    pub skipped: Option<u64>,
    /// The settings of the network namespace of this process; `None` if they cannot be read.
    pub settings: Option<TimeWaitSettings>,
}
