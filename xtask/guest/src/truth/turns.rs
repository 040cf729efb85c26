//! Threads that take turns on a CPU, and are switched wherever they are when their turn is over: in the
//! middle of a connect(). An ordinary thread is left alone until it leaves the kernel, where preemption
//! is voluntary or lazy.

use std::fs;

use anyhow::{Context, Result};

use super::socket::check;

/// Milliseconds; rounded up to a tick of the kernel's.
const SETTING: &str = "/proc/sys/kernel/sched_rr_timeslice_ms";

/// Turns that are as short as the kernel has them, until this is dropped.
pub(super) struct Turns {
    before: String,
}

impl Turns {
    /// Takes root.
    pub(super) fn shortest() -> Result<Self> {
        let before = fs::read_to_string(SETTING).with_context(|| format!("reading {SETTING}"))?;
        fs::write(SETTING, "1").with_context(|| format!("writing 1 to {SETTING}"))?;
        Ok(Self { before })
    }

    /// Has the calling thread take turns with all others that do.
    pub(super) fn taken() -> Result<()> {
        let lowest = libc::sched_param { sched_priority: 1 };
        // SAFETY: `lowest` outlives the call; 0 is the calling thread.
        check(unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) })
            .context("scheduling a thread as SCHED_RR")
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SETTING, &self.before) {
            eprintln!("truth: putting {SETTING} back: {error}");
        }
    }
}
