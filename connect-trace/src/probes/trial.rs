//! Loading the programs without attaching them to the functions that they are made for: shows whether the kernel's
//! verifier accepts them, and whether the kernel attaches programs in this way, at no cost to any connect().

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};

use super::{
    ProbeConfig,
    attach::{AttachMode, fentry, functions::Functions, kprobe},
    load, load_tracepoint,
    read::{program_info, run_stats::descriptor},
    stacks,
};
use crate::kernel::layout::Layout;

/// Result of loading the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Number of programs.
    pub(crate) programs: usize,
    /// True if the kernel counts the runs of a program that it skips.
    pub(crate) counts_skipped: bool,
}

/// Creates the maps, loads the programs of a flame graph, and unloads them.
pub(crate) fn load_stacks(
    config: &ProbeConfig,
    layout: &Layout,
    functions: &Functions,
) -> Result<()> {
    let (mut ebpf, _variables) = load(config, layout, functions, None, None)?;
    stacks::offered(&mut ebpf)
}

/// Creates the maps, loads every program that a trace with this mode attaches, and unloads them.
pub(crate) fn load_all(
    mode: AttachMode,
    config: &ProbeConfig,
    layout: &Layout,
    functions: &Functions,
) -> Result<Loaded> {
    match mode {
        AttachMode::Fentry => fentry::offered()?,
        AttachMode::Kprobe => kprobe::offered()?,
    }
    let (mut ebpf, _variables) = load(config, layout, functions, None, None)?;
    load_tracepoint(&mut ebpf, "thread_exit")?;
    let all = [functions.connect(), functions.checks()].concat();
    match mode {
        AttachMode::Fentry => {
            fentry::try_out(&mut ebpf)?;
            let btf = fentry::kernel_types(&all)?;
            for function in all {
                let entry = format!("fentry_{}", function.program);
                fentry::load_exit(&mut ebpf, function, &btf)?;
                fentry::load_entry(&mut ebpf, &entry, function, &btf)?;
            }
        }
        AttachMode::Kprobe => {
            for function in all {
                for kind in ["kretprobe", "kprobe"] {
                    kprobe::load(&mut ebpf, &format!("{kind}_{}", function.program))?;
                }
            }
        }
    }
    let loaded: Vec<_> = ebpf
        .programs()
        .filter_map(|(_, program)| descriptor(program))
        .collect();
    let first = loaded.first().context("the eBPF object has no programs")?;
    Ok(Loaded {
        programs: loaded.len(),
        counts_skipped: program_info::read(first.as_fd().as_raw_fd())
            .context("read the kernel's counters of a program")?
            .recursion_misses
            .is_some(),
    })
}
