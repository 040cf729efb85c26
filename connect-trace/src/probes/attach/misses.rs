//! Calls that the kernel did not hand to a program, by the kernel's own counters.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Program, ProgramFd},
};

use super::return_events;
use crate::kernel::mounts::Folder;
use crate::probes::{phases, read::program_info, stacks::is_of_stacks};

/// The kernel's counts; `None` if this kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Runs of a program that were skipped because it was already running on the CPU, `bpf_prog_info.recursion_misses`.
    pub recursion: Option<u64>,
    /// Returns that found every slot of a kretprobe taken, `kprobe_profile`.
    pub returns: Option<u64>,
    /// Forks at which the fork program was skipped, as in `recursion`; `None` also if children are not followed.
    pub forks: Option<u64>,
    /// Ends of threads at which the program for them was skipped, as in `recursion`.
    pub thread_ends: Option<u64>,
}

/// The program at `sched_process_fork`.
const FORK: &str = "process_fork";
/// The program at `sched_process_exit`.
const THREAD_END: &str = "thread_exit";
/// The program at the changes of sockets' states.
const ENDS: &str = crate::probes::ends::PROGRAM;

/// Descriptors of programs, of our own: the counts can be read after the programs are detached, when they no longer
/// change.
pub(crate) struct Programs(Vec<ProgramFd>);

impl Programs {
    /// Returns the loaded programs of connect().
    pub(crate) fn of(ebpf: &Ebpf) -> Result<Self> {
        Self::which(ebpf, |name| {
            let is_of_an_option = is_of_checks(name)
                || is_of_time_wait(name)
                || phases::is_one(name)
                || is_of_stacks(name);
            !is_of_an_option && ![FORK, THREAD_END, ENDS].contains(&name)
        })
    }

    /// Returns the program at forks, if it is loaded.
    pub(crate) fn of_forks(ebpf: &Ebpf) -> Result<Self> {
        Self::which(ebpf, |name| name == FORK)
    }

    /// Returns the program at the ends of threads.
    pub(crate) fn of_thread_ends(ebpf: &Ebpf) -> Result<Self> {
        Self::which(ebpf, |name| name == THREAD_END)
    }

    /// Returns the program at the changes of sockets' states.
    pub(crate) fn of_ends(ebpf: &Ebpf) -> Result<Self> {
        Self::which(ebpf, |name| name == ENDS)
    }

    /// Returns the loaded programs of the candidate checks.
    pub(crate) fn of_checks(ebpf: &Ebpf) -> Result<Self> {
        Self::which(ebpf, is_of_checks)
    }

    /// Returns the program of TIME_WAIT, if it is loaded.
    pub(crate) fn of_time_wait(ebpf: &Ebpf) -> Result<Self> {
        Self::which(ebpf, is_of_time_wait)
    }

    fn which(ebpf: &Ebpf, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let mut descriptors = Vec::new();
        for (name, program) in ebpf.programs() {
            let fd = match program {
                _ if !wanted(name) => continue,
                Program::FEntry(program) => program.fd(),
                Program::FExit(program) => program.fd(),
                Program::KProbe(program) => program.fd(),
                Program::RawTracePoint(program) => program.fd(),
                _ => continue,
            };
            if let Ok(fd) = fd {
                descriptors.push(fd.try_clone().context("duplicate a program's descriptor")?);
            }
        }
        Ok(Self(descriptors))
    }

    /// Returns the number of skipped runs; `None` if there are no such programs, or the kernel does not count skipped
    /// runs.
    pub(crate) fn recursion_misses(&self) -> Result<Option<u64>> {
        let mut recursion = None;
        for program in &self.0 {
            let info = program_info::read(program.as_fd().as_raw_fd())
                .context("read the kernel's counters of a program")?;
            if let Some(misses) = info.recursion_misses {
                *recursion.get_or_insert(0) += misses;
            }
        }
        Ok(recursion)
    }
}

fn is_of_checks(program: &str) -> bool {
    program.contains("check_established")
}

fn is_of_time_wait(program: &str) -> bool {
    program.contains("twsk_unique")
}

impl Misses {
    /// Reads the counts. `tracefs` holds the counts of the return events, if there are any.
    pub(crate) fn read(
        connect: &Programs,
        forks: &Programs,
        thread_ends: &Programs,
        tracefs: Option<&Folder>,
    ) -> Result<Self> {
        Ok(Self {
            recursion: connect.recursion_misses()?,
            returns: tracefs.map(return_events::missed).transpose()?,
            forks: forks.recursion_misses()?,
            thread_ends: thread_ends.recursion_misses()?,
        })
    }
}
