//! Calls that the kernel did not hand to a program, by the kernel's own counters.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Program, ProgramFd},
};

use super::{program_info, return_events};

/// The kernel's counts; `None` where this kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Runs of a program that were left out because it was already running on the CPU,
    /// `bpf_prog_info.recursion_misses`.
    pub recursion: Option<u64>,
    /// Returns that found every slot of a kretprobe taken, `kprobe_profile`.
    pub returns: Option<u64>,
}

/// Descriptors of the programs of connect(), of our own: the counts can be read after the programs are
/// detached, when they do not change any more.
pub(super) struct Programs(Vec<ProgramFd>);

impl Programs {
    /// Those that are loaded. What is missed of check_established is seen in its own figures.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self> {
        let mut descriptors = Vec::new();
        for (name, program) in ebpf.programs() {
            let fd = match program {
                _ if name.contains("check_established") => continue,
                Program::FEntry(program) => program.fd(),
                Program::FExit(program) => program.fd(),
                Program::KProbe(program) => program.fd(),
                _ => continue,
            };
            if let Ok(fd) = fd {
                descriptors.push(fd.try_clone().context("duplicate a program's descriptor")?);
            }
        }
        Ok(Self(descriptors))
    }
}

impl Misses {
    /// Reads the counts. `tracefs` has those of the return events, where there are any.
    pub(super) fn read(programs: &Programs, tracefs: Option<&Path>) -> Result<Self> {
        let mut recursion = None;
        for program in &programs.0 {
            let info = program_info::read(program.as_fd().as_raw_fd())
                .context("read the kernel's counters of a program")?;
            if let Some(misses) = info.recursion_misses {
                *recursion.get_or_insert(0) += misses;
            }
        }
        Ok(Self {
            recursion,
            returns: tracefs.map(return_events::missed).transpose()?,
        })
    }
}
