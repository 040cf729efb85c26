//! The cost of the trace, and its use of `--max-overhead`.

use std::time::Duration;

use serde::Serialize;

use super::saturated;
use crate::overhead::{
    self, ProgramRuns, core_percent,
    history::{LevelPeriod, LimitUse},
    ns_per,
};

#[derive(Serialize)]
pub(super) struct Overhead<'a> {
    connects_seen: u64,
    run_ns: u64,
    ns_per_connect: Option<f64>,
    core_percent: f64,
    daemon_cpu_ns: u64,
    daemon_core_percent: f64,
    resident_bytes: u64,
    most_resident_bytes: u64,
    programs: Vec<Program<'a>>,
}

impl<'a> Overhead<'a> {
    /// Creates the object for a trace of this duration.
    pub(super) fn of(overhead: &'a overhead::Overhead, elapsed: Duration) -> Self {
        let (calls, run_time) = (overhead.calls, overhead.run_time());
        Self {
            connects_seen: calls,
            run_ns: saturated(run_time.as_nanos()),
            ns_per_connect: ns_per(run_time, calls),
            core_percent: core_percent(run_time, elapsed),
            daemon_cpu_ns: saturated(overhead.own.cpu.as_nanos()),
            daemon_core_percent: core_percent(overhead.own.cpu, elapsed),
            resident_bytes: overhead.own.resident_bytes,
            most_resident_bytes: overhead.own.most_resident_bytes,
            programs: overhead
                .programs
                .iter()
                .map(|program| Program::of(program, calls, elapsed))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct Program<'a> {
    program: &'a str,
    runs: u64,
    run_ns: u64,
    ns_per_run: Option<f64>,
    ns_per_connect: Option<f64>,
    core_percent: f64,
}

impl<'a> Program<'a> {
    fn of(program: &'a ProgramRuns, calls: u64, elapsed: Duration) -> Self {
        Self {
            program: &program.name,
            runs: program.runs,
            run_ns: saturated(program.time.as_nanos()),
            ns_per_run: ns_per(program.time, program.runs),
            ns_per_connect: ns_per(program.time, calls),
            core_percent: core_percent(program.time, elapsed),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Budget {
    limit_core_percent: f64,
    steps: Vec<Step>,
    steps_left_out: u64,
    unwatched_ns: u64,
    sampled_ns: u64,
    blind_ns: u64,
    connects_entered: u64,
    connects_unsampled: u64,
}

impl Budget {
    pub(super) fn of(budget: &LimitUse) -> Self {
        Self {
            limit_core_percent: budget.limit,
            steps: budget.periods.iter().map(Step::of).collect(),
            steps_left_out: budget.left_out,
            unwatched_ns: saturated(budget.unwatched.as_nanos()),
            sampled_ns: saturated(budget.sampled.as_nanos()),
            blind_ns: saturated(budget.blind.as_nanos()),
            connects_entered: budget.entered,
            connects_unsampled: budget.unsampled,
        }
    }
}

#[derive(Serialize)]
struct Step {
    level: &'static str,
    sample_every: Option<u32>,
    begins_ns: u64,
    lasted_ns: u64,
    core_percent: Option<f64>,
    daemon_core_percent: Option<f64>,
}

impl Step {
    fn of(period: &LevelPeriod) -> Self {
        Self {
            level: period.level.name(),
            sample_every: period.level.sample_every(),
            begins_ns: saturated(period.begins.as_nanos()),
            lasted_ns: saturated(period.lasted.as_nanos()),
            core_percent: period.cost.map(|cost| cost.programs),
            daemon_core_percent: period.cost.map(|cost| cost.own),
        }
    }
}
