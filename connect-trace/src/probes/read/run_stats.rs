//! Number and duration of each program's runs, by the kernel's own statistics. They are enabled for every BPF program
//! of the host while a [`RunStats`] exists, and cost two clock readings per run.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Program, ProgramFd},
    sys::{Stats, enable_stats},
};

use super::program_info;
use crate::{
    kernel::{requirement::MissingRequirement, sysctls::counts_runs},
    overhead::ProgramRuns,
};

/// The statistics of our programs.
pub(crate) struct RunStats {
    /// The kernel counts until this descriptor is closed. `None` if somebody else decides that
    /// ([`counts_runs`]).
    enabled: Mutex<Option<OwnedFd>>,
    programs: Mutex<Vec<Known>>,
}

/// A program, with a descriptor of our own: an attachment may hold the object locked for a while.
struct Known {
    name: String,
    id: u32,
    fd: ProgramFd,
    /// Runs of earlier programs of this name: some kernels need a program to be loaded again (`fentry.rs`).
    earlier: (u64, Duration),
}

impl RunStats {
    /// Enables the statistics. No program is known yet.
    pub(crate) fn enable() -> Result<Self> {
        let enabled = enable_stats(Stats::RunTime).map_err(|error| {
            MissingRequirement::new(
                format!(
                    "--overhead needs the kernel's statistics of programs (BPF_ENABLE_STATS), which are refused \
                     ({error})"
                ),
                "run as root with CAP_SYS_ADMIN, or without --overhead and --max-overhead",
            )
        })?;
        Ok(Self {
            enabled: Mutex::new(Some(enabled)),
            programs: Mutex::default(),
        })
    }

    /// Enables the statistics if that is allowed. No program is known yet.
    pub(crate) fn enable_if_allowed() -> Self {
        let stats = Self {
            enabled: Mutex::default(),
            programs: Mutex::default(),
        };
        stats.resume();
        stats
    }

    /// Enables the statistics again, if that is allowed.
    pub(crate) fn resume(&self) {
        let enabled = enable_stats(Stats::RunTime)
            .inspect_err(|error| log::debug!("enable statistics of programs: {error}"));
        *self.enabled() = enabled.ok();
    }

    /// No longer enables the statistics. The counts until now stay.
    pub(crate) fn pause(&self) {
        *self.enabled() = None;
    }

    /// Returns true if the kernel counts now.
    pub(crate) fn counts(&self) -> bool {
        self.enabled().is_some() || counts_runs()
    }

    fn enabled(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.enabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the programs that are loaded. To be called after any was loaded.
    pub(crate) fn look_at(&self, ebpf: &Ebpf) -> Result<()> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, program) in ebpf.programs() {
            let Some(fd) = descriptor(program) else {
                continue;
            };
            let info = program_info::read(fd.as_fd().as_raw_fd()).context(READ)?;
            let fd = || fd.try_clone().context("duplicate a program's descriptor");
            match programs.iter_mut().find(|known| known.name == name) {
                Some(known) if known.id == info.id => {}
                Some(known) => {
                    known.earlier = known.runs()?;
                    (known.id, known.fd) = (info.id, fd()?);
                }
                None => programs.push(Known {
                    name: name.to_owned(),
                    id: info.id,
                    fd: fd()?,
                    earlier: (0, Duration::ZERO),
                }),
            }
        }
        Ok(())
    }

    /// Returns the runs of every program since it was loaded, by name.
    pub(crate) fn read(&self) -> Result<Vec<ProgramRuns>> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::with_capacity(programs.len());
        for known in programs.iter() {
            let (runs, time) = known.runs()?;
            all.push(ProgramRuns {
                name: known.name.clone(),
                runs,
                time,
            });
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }
}

const READ: &str = "read the kernel's statistics of a program";

impl Known {
    fn runs(&self) -> Result<(u64, Duration)> {
        let info = program_info::read(self.fd.as_fd().as_raw_fd()).context(READ)?;
        let (runs, time) = self.earlier;
        Ok((runs + info.runs, time + info.run_time))
    }
}

/// Returns the descriptor of a loaded program.
pub(crate) fn descriptor(program: &Program) -> Option<&ProgramFd> {
    let fd = match program {
        Program::FEntry(program) => program.fd(),
        Program::FExit(program) => program.fd(),
        Program::KProbe(program) => program.fd(),
        Program::RawTracePoint(program) => program.fd(),
        Program::PerfEvent(program) => program.fd(),
        _ => return None,
    };
    fd.ok()
}
