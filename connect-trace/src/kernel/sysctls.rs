//! The switches of the whole system: those that turn probes off, which then attach without an error but never run, and
//! the one that counts the runs of programs.

use std::fs;

use anyhow::Result;

use super::{requirement::MissingRequirement, symbols::Symbols};

/// Contains 0 if every kprobe is disarmed (Documentation/trace/kprobes.rst). Readable by root only, and only with
/// debugfs.
const KPROBES: &str = "/sys/kernel/debug/kprobes/enabled";
/// Contains 0 if everything that enters functions by ftrace is off: fentry, and on kernels with [`HANDLER`] kprobes at the
/// entry of a function.
const FTRACE: &str = "/proc/sys/kernel/ftrace_enabled";

/// Checks that kprobes are not turned off.
///
/// # Errors
/// If kprobes are turned off; says how to turn them on. A switch that cannot be read is no error: it is on by default.
pub(crate) fn kprobes() -> Result<()> {
    on(
        fs::read_to_string(KPROBES).ok().as_deref(),
        || format!("kprobes are turned off ({KPROBES} is 0)"),
        "turn them on (echo 1 > /sys/kernel/debug/kprobes/enabled)",
    )
}

/// The function of kernels whose kprobes enter functions by ftrace (`CONFIG_KPROBES_ON_FTRACE`): those for x86-64, but not
/// those for arm64.
const HANDLER: &str = "kprobe_ftrace_handler";

/// Checks that ftrace is not turned off.
///
/// # Errors
/// If ftrace is turned off; says how to turn it on. A switch that cannot be read is no error: it is on by default.
pub(crate) fn ftrace() -> Result<()> {
    on(
        fs::read_to_string(FTRACE).ok().as_deref(),
        || "ftrace is turned off (kernel.ftrace_enabled is 0)".to_owned(),
        "turn it on (sysctl kernel.ftrace_enabled=1)",
    )
}

/// Checks that ftrace is not turned off if kprobes enter functions by it.
///
/// # Errors
/// As of [`ftrace`].
pub(crate) fn ftrace_of_kprobes() -> Result<()> {
    let Err(off) = ftrace() else {
        return Ok(());
    };
    let symbols = Symbols::of_running_kernel(&[HANDLER])?;
    // The kernel's types, from which it takes the functions if it hides the symbols, need not have this one.
    match symbols.functions.is_empty() && symbols.note.is_none() {
        true => Ok(()),
        false => Err(off),
    }
}

/// Contains 1 if the kernel counts the runs of every eBPF program (Linux 5.1).
pub(crate) const RUN_STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Returns whether the kernel counts the runs of every eBPF program, whoever asks for it.
pub(crate) fn counts_runs() -> bool {
    fs::read_to_string(RUN_STATISTICS).is_ok_and(|switch| switch.trim() == "1")
}

fn on(switch: Option<&str>, what: impl Fn() -> String, remedy: &'static str) -> Result<()> {
    match switch.map(str::trim) {
        Some("0") => Err(MissingRequirement::new(what(), remedy).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_zero_is_off() {
        let state = |switch| on(switch, || "it is off".to_owned(), "turn it on");
        for switch in [None, Some("1\n"), Some(""), Some("2")] {
            assert!(state(switch).is_ok(), "{switch:?}");
        }
        let error = state(Some("0\n")).unwrap_err();
        assert_eq!(error.to_string(), "it is off: turn it on");
    }
}
