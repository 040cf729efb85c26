//! The programs that take kernel stacks of threads inside connect(): a perf event on the clock of each CPU, and the
//! tracepoint `sched_switch`. Loaded only for a flame graph.

use std::io;

use anyhow::{Context as _, Error, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{
        PerfEvent, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use connect_trace_common::StackCounts;

use super::{attach::perf_event, load_tracepoint, object, read::maps::Plain};
use crate::kernel::{requirement::MissingRequirement, text::KernelText};

/// The program on the CPU clock.
const CLOCK: &str = "stacks_clock";
/// The program at `sched_switch`.
const SWITCH: &str = "stacks_switch";

/// Nanoseconds per second.
const SECOND_NS: u64 = 1_000_000_000;

/// Returns true if a program is one of those that take stacks.
pub(super) fn is_of_stacks(program: &str) -> bool {
    program == CLOCK || program == SWITCH
}

/// The account of the samples.
pub(super) struct Counts(Array<MapData, Plain<StackCounts>>);

impl Counts {
    /// Takes the map from the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        object::take(ebpf, "STACK_COUNTS").map(Self)
    }

    /// Reads the counts. While the kernel reads the map, it runs no program of a kprobe on this CPU.
    pub(super) fn read(&self) -> Result<StackCounts> {
        let Plain(counts) = self.0.get(&0, 0).context("read map STACK_COUNTS")?;
        Ok(counts)
    }
}

/// Loads the programs, attached to nothing.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<()> {
    load_tracepoint(ebpf, SWITCH)?;
    let clock: &mut PerfEvent = object::program(ebpf, CLOCK)?;
    clock
        .load()
        .map_err(object::refusal)
        .with_context(|| format!("load program {CLOCK}"))
}

/// Loads the programs, and attaches them: each CPU that is online takes `hertz` samples per second.
pub(super) fn attach(ebpf: &mut Ebpf, hertz: u32) -> Result<()> {
    load(ebpf)?;
    let cpus = online_cpus().map_err(|(file, error)| Error::from(error).context(file))?;
    let clock: &mut PerfEvent = object::program(ebpf, CLOCK)?;
    for cpu in cpus {
        // A period and no frequency: the kernel lowers the limit of frequencies on a busy host.
        clock
            .attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Period(period_ns(hertz)),
                false,
            )
            .map_err(|error| refused(error.into()))
            .with_context(|| format!("attach to the clock of CPU {cpu}"))?;
    }
    object::program::<RawTracePoint>(ebpf, SWITCH)?
        .attach("sched_switch")
        .context("attach to tracepoint sched_switch")?;
    Ok(())
}

/// Returns the time between two samples of a CPU.
pub(super) fn period_ns(hertz: u32) -> u64 {
    SECOND_NS / u64::from(hertz)
}

/// Checks that flame graphs can be made, by loading the programs.
///
/// # Errors
/// Names the missing requirement.
pub(super) fn offered(ebpf: &mut Ebpf) -> Result<()> {
    perf_event::clock_offered().map_err(|error| refused(error.into()))?;
    load(ebpf)?;
    KernelText::of_running_kernel().map(drop)
}

/// Names the requirement that is missing if the kernel refuses a perf event.
fn refused(cause: Error) -> Error {
    let errno = cause
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    let remedy = match errno {
        Some(libc::EACCES | libc::EPERM) => {
            "run as root with all capabilities, outside of a container whose seccomp filter forbids \
             perf_event_open(2), or allow processes with CAP_PERFMON to open events (sysctl \
             kernel.perf_event_paranoid=2)"
        }
        Some(libc::ENOSYS | libc::ENOENT | libc::EOPNOTSUPP) => {
            "boot a kernel with CONFIG_PERF_EVENTS=y, or leave out the flame graph"
        }
        _ => return cause,
    };
    MissingRequirement::new(
        format!(
            "a flame graph needs perf_event_open(2) on the clock of each CPU, which is refused ({cause:#})"
        ),
        remedy,
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_event_names_what_would_allow_it() {
        let refused = |errno| {
            let error = refused(io::Error::from_raw_os_error(errno).into());
            let lack = error.downcast_ref::<MissingRequirement>().cloned();
            lack.map(|lack| lack.to_string())
        };
        for errno in [libc::EPERM, libc::EACCES] {
            let text = refused(errno).unwrap();
            assert!(text.contains("kernel.perf_event_paranoid"), "{text}");
            assert!(text.contains("perf_event_open(2)"), "{text}");
        }
        let text = refused(libc::ENOSYS).unwrap();
        assert!(text.contains("CONFIG_PERF_EVENTS"), "{text}");
        assert_eq!(refused(libc::EMFILE), None, "the limit is named elsewhere");
    }
}
