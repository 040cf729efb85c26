//! The overhead of a trace: the run time of the programs by the kernel's own statistics, and the resources that this
//! process uses. Plain values; `probes/read/run_stats.rs` and `process_usage.rs` read them.

pub(crate) mod estimate;
pub(crate) mod history;
pub mod limiter;
pub(crate) mod process_usage;

use std::time::Duration;

use crate::overhead::process_usage::ProcessUsage;

/// Overhead of a trace since its start, or within the time of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// Number of connect() calls that the programs saw, selected by the filters or not; a v4-mapped one counts once.
    pub calls: u64,
    /// Runs of every program that is loaded, or was.
    pub programs: Vec<ProgramRuns>,
    /// Resources that this process used; its memory is the present amount.
    pub own: ProcessUsage,
}

/// Number and duration of a program's runs, by the kernel's statistics (`bpf_prog_info`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Name of the program.
    pub name: String,
    /// Number of runs, `run_cnt`.
    pub runs: u64,
    /// Total time of the runs, `run_time_ns`: without the trampoline or the kprobe around them.
    pub time: Duration,
}

impl Overhead {
    /// Returns the run time of all programs.
    #[must_use]
    pub fn run_time(&self) -> Duration {
        self.programs.iter().map(|program| program.time).sum()
    }

    /// Returns the CPU time that counts against the overhead limit: the run time of the programs, and the CPU time of
    /// this process.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.run_time() + self.own.cpu
    }

    /// Returns the difference from an earlier reading. The memory stays the present amount.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let programs = self.programs.iter().map(|now| {
            let before = earlier.programs.iter().find(|one| one.name == now.name);
            let (runs, time) = before.map_or((0, Duration::ZERO), |one| (one.runs, one.time));
            ProgramRuns {
                name: now.name.clone(),
                runs: now.runs.saturating_sub(runs),
                time: now.time.saturating_sub(time),
            }
        });
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            programs: programs.collect(),
            own: ProcessUsage {
                cpu: self.own.cpu.saturating_sub(earlier.own.cpu),
                ..self.own
            },
        }
    }
}

/// Divides a time by a count, in nanoseconds; `None` if the count is 0.
#[must_use]
pub fn ns_per(time: Duration, count: u64) -> Option<f64> {
    (count > 0).then(|| time.as_nanos() as f64 / count as f64)
}

/// Returns a CPU time as percent of one core over a period.
#[must_use]
pub fn core_percent(cpu: Duration, over: Duration) -> f64 {
    if over.is_zero() {
        return 0.0;
    }
    cpu.as_secs_f64() / over.as_secs_f64() * 100.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn runs(name: &str, runs: u64, micros: u64) -> ProgramRuns {
        ProgramRuns {
            name: name.to_owned(),
            runs,
            time: Duration::from_micros(micros),
        }
    }

    #[test]
    fn a_difference_is_of_each_program_and_of_the_cpu_time_but_not_of_the_memory() {
        let earlier = Overhead {
            calls: 10,
            programs: vec![runs("entry", 10, 5)],
            own: ProcessUsage {
                cpu: Duration::from_millis(3),
                resident_bytes: 1 << 20,
                most_resident_bytes: 1 << 20,
            },
        };
        let now = Overhead {
            calls: 30,
            programs: vec![runs("burst", 2, 1), runs("entry", 30, 20)],
            own: ProcessUsage {
                cpu: Duration::from_millis(4),
                resident_bytes: 2 << 20,
                most_resident_bytes: 3 << 20,
            },
        };
        let between = now.since(&earlier);
        assert_eq!(between.calls, 20);
        assert_eq!(
            between.programs,
            [runs("burst", 2, 1), runs("entry", 20, 15)]
        );
        assert_eq!(between.own.resident_bytes, 2 << 20);
        assert_eq!(between.run_time(), Duration::from_micros(16));
        assert_eq!(between.cpu_time(), Duration::from_micros(1_016));
        assert_eq!(now.since(&Overhead::default()), now);
    }

    #[test]
    fn a_percent_is_of_one_core() {
        let ms = Duration::from_millis;
        assert_eq!(core_percent(ms(10), ms(1_000)), 1.0);
        assert_eq!(core_percent(ms(3_000), ms(1_000)), 300.0);
        assert_eq!(core_percent(ms(1), Duration::ZERO), 0.0);
    }
}
