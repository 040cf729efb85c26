//! The switches that turn probes off for the whole system. Probes are attached without an error then,
//! and see nothing.

use std::fs;

use anyhow::Result;

use super::requirement::MissingRequirement;

/// 0 disarms every kprobe (Documentation/trace/kprobes.rst). For root only, and only with debugfs.
const KPROBES: &str = "/sys/kernel/debug/kprobes/enabled";
/// 0 turns off what enters functions by ftrace: fentry, and kprobes at the entry of a function.
const FTRACE: &str = "/proc/sys/kernel/ftrace_enabled";

/// Checks that kprobes are not turned off.
///
/// # Errors
/// Says how to turn them on. None where the switch cannot be read: it is on by default.
pub fn kprobes() -> Result<()> {
    on(
        fs::read_to_string(KPROBES).ok().as_deref(),
        || format!("kprobes are turned off ({KPROBES} is 0)"),
        "turn them on (echo 1 > /sys/kernel/debug/kprobes/enabled)",
    )
}

/// Checks that ftrace is not turned off.
///
/// # Errors
/// Says how to turn it on. None where the switch cannot be read: it is on by default.
pub fn ftrace() -> Result<()> {
    on(
        fs::read_to_string(FTRACE).ok().as_deref(),
        || "ftrace is turned off (kernel.ftrace_enabled is 0)".to_owned(),
        "turn it on (sysctl kernel.ftrace_enabled=1)",
    )
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
