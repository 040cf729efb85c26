//! Attaching by kprobe and kretprobe.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, programs::KProbe};

use super::{AttachMode, perf_event, return_events::ReturnEvents};
use crate::kernel::{mounts, prototypes::Function, requirement::MissingRequirement, sysctls};
use crate::probes::object;

/// Folder of the PMU through which perf_event_open(2) creates a kprobe.
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";

/// Loads the entry program and the return program of each function. Returns go through events of our own, which hold
/// enough calls in flight. If these cannot be created and are not required, returns go through the kernel's default,
/// which loses returns under load and is noted.
pub(crate) fn prepare(
    ebpf: &mut Ebpf,
    functions: &[&'static Function],
    must_have_slots: bool,
    notes: &mut Vec<String>,
) -> Result<Option<ReturnEvents>> {
    offered()?;
    let events = match ReturnEvents::create(functions) {
        Ok(events) => {
            notes.push(format!(
                "returns of up to {} calls at once",
                ReturnEvents::MAX_ACTIVE
            ));
            Some(events)
        }
        Err(error) if must_have_slots => return Err(error),
        Err(error) => {
            notes.push(format!(
                "returns may be lost under load (they are counted): {error:#}"
            ));
            None
        }
    };
    for &function in functions {
        load_both(ebpf, function)?;
    }
    Ok(events)
}

/// Loads the entry program and the return program of a function.
pub(crate) fn load_both(ebpf: &mut Ebpf, function: &Function) -> Result<()> {
    load(ebpf, &return_program(function))?;
    load(ebpf, &AttachMode::Kprobe.entry_program(function))?;
    Ok(())
}

/// Returns the name of the program for the return of a function.
pub(crate) fn return_program(function: &Function) -> String {
    format!("kretprobe_{}", function.program)
}

/// Checks that the kernel has kprobes, that they are not turned off, and that this process may attach to them.
pub(crate) fn offered() -> Result<()> {
    mounts::sysfs()?;
    ensure!(
        Path::new(KPROBE_PMU).exists(),
        MissingRequirement::new(
            format!("the kernel has no kprobes ({KPROBE_PMU} is missing)"),
            "boot a kernel built with CONFIG_KPROBE_EVENTS=y"
        )
    );
    sysctls::kprobes()?;
    sysctls::ftrace_of_kprobes()?;
    perf_event::offered()
}

/// Loads the program of this name.
pub(crate) fn load<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut KProbe> {
    let probe: &mut KProbe = object::program(ebpf, program)?;
    probe
        .load()
        .map_err(object::refusal)
        .with_context(|| format!("load program {program}"))?;
    Ok(probe)
}

/// Returns the error context for an attachment that failed.
pub(crate) fn refused(kind: &str, function: &Function) -> String {
    format!(
        "attach {kind} to {}: it may be blacklisted (/sys/kernel/debug/kprobes/blacklist)",
        function.symbol
    )
}
