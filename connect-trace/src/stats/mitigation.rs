//! A mitigation in a report: its decisions, its routes, and its connections beside those that it leaves alone.

use connect_trace_common::MitigationCounters;

use super::arms::{ArmCalls, Verdict};

/// A mitigation in the time of a report.
#[derive(Clone, Debug)]
pub struct Mitigation {
    /// The settings, in words that follow "Mitigation".
    pub settings: String,
    /// Decisions in that time.
    pub decisions: MitigationCounters,
    /// Number of the routes now.
    pub routes: RouteNumbers,
    /// Connections on routes on which it acts, in the order of [`super::arms::Arm::ALL`].
    pub arms: [ArmCalls; 2],
    /// The comparison of the arms since the start; `None` if everything is mitigated.
    pub verdict: Option<Verdict>,
}

/// Numbers of routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteNumbers {
    /// Routes that are known.
    pub known: u64,
    /// Routes on which the mitigation acts.
    pub acting: u64,
    /// Routes on which it never acts, because the kernel chooses one source address and another.
    pub ambiguous: u64,
    /// Connections on routes that were not kept, for lack of room.
    pub dropped: u64,
}
