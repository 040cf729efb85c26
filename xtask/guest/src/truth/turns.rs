//! Threads that take turns on a CPU, and are switched when their turn is over, even in the middle of a connect(). If
//! preemption is voluntary or lazy, an ordinary thread is not switched until it leaves the kernel.

use std::fs;

use anyhow::{Context, Result};

use libc::c_int;

use super::socket::check;

/// Setting of the length of a turn in milliseconds; the kernel rounds up to a tick.
const SETTING: &str = "/proc/sys/kernel/sched_rr_timeslice_ms";

/// Turns as short as the kernel allows, until this value is dropped.
pub(super) struct Turns {
    before: String,
}

impl Turns {
    /// Sets the shortest turns. Needs root.
    pub(super) fn shortest() -> Result<Self> {
        let before = fs::read_to_string(SETTING).with_context(|| format!("reading {SETTING}"))?;
        fs::write(SETTING, "1").with_context(|| format!("writing 1 to {SETTING}"))?;
        Ok(Self { before })
    }

    /// Makes the calling thread take turns with all other such threads.
    pub(super) fn taken() -> Result<()> {
        // The kernel's sched_param. The C library's call has another meaning in musl: it fails.
        let lowest: c_int = 1;
        // SAFETY: `lowest` outlives the call; 0 is the calling thread.
        let result = unsafe {
            libc::syscall(
                libc::SYS_sched_setscheduler,
                0,
                libc::SCHED_RR,
                &raw const lowest,
            )
        };
        check(result as c_int).context("scheduling a thread as SCHED_RR")
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        if let Err(error) = fs::write(SETTING, &self.before) {
            eprintln!("truth: putting {SETTING} back: {error}");
        }
    }
}
