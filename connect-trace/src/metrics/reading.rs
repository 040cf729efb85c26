//! The values of one exposition.

use std::time::SystemTime;

use super::Totals;
use crate::{
    overhead::{ProgramRuns, limiter::Level, process_usage::ProcessUsage},
    stats::accounting::Accounting,
};

/// The routes whose ports run out, as of the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Routes {
    /// The largest share of its ports that a search on any route found taken, from 0 to 1; 0 if none went through half.
    pub used_ratio: f64,
    /// Number of routes with searches that found half of their ports taken, or more.
    pub exhausting: u64,
    /// Number of routes that were logged since the start.
    pub warnings: u64,
}

/// Everything that one exposition shows.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The connect() calls since the start.
    pub totals: Totals,
    /// The account of every call since the start.
    pub accounting: Accounting,
    /// The routes whose ports run out.
    pub routes: Routes,
    /// Runs of the programs since the start, if the kernel counts them.
    pub programs: Vec<ProgramRuns>,
    /// The level that keeps the overhead limit.
    pub level: Level,
    /// The resources of this process.
    pub own: ProcessUsage,
    /// Start of this process.
    pub started: SystemTime,
    /// The kernel's release.
    pub kernel: String,
    /// The way in which the programs are attached.
    pub attached: String,
}
