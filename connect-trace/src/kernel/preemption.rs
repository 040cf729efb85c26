//! Whether the kernel preempts threads that run in it.
//!
//! A preempted thread that is inside a program of fentry or fexit makes the kernel skip that program
//! for every other thread of the CPU until it runs again (`bpf_prog_enter_recur`): on a busy host that
//! loses many calls at once. Kprobes run with preemption off.

use std::fs;

/// Where the scheduler shows its model: all that the kernel was built with, the present one in
/// parentheses (`CONFIG_PREEMPT_DYNAMIC`, Linux 5.17).
const MODEL: &str = "/sys/kernel/debug/sched/preempt";
/// `uname -v`: names the model where it cannot change.
const VERSION: &str = "/proc/sys/kernel/version";

/// The name of the model, if it preempts threads in the kernel.
#[must_use]
pub fn preempting_model() -> Option<String> {
    let model = fs::read_to_string(MODEL).ok();
    let version = fs::read_to_string(VERSION).unwrap_or_default();
    preempting(model.as_deref(), &version)
}

fn preempting(model: Option<&str>, version: &str) -> Option<String> {
    let present = model
        .and_then(|model| model.split_once('(')?.1.split_once(')'))
        .map(|found| found.0);
    let present = match present {
        Some(present) => present.to_owned(),
        None => match version
            .split_whitespace()
            .find(|word| word.starts_with("PREEMPT"))
        {
            // Which one it is cannot be told: take the one that costs records if it is overlooked.
            Some("PREEMPT_DYNAMIC") => "not known".to_owned(),
            Some(built) => built.to_lowercase(),
            None => return None,
        },
    };
    (!matches!(present.as_str(), "none" | "voluntary")).then_some(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_model_decides() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.18.15-1";
        for model in ["none (voluntary) full\n", "(none) voluntary full lazy\n"] {
            assert_eq!(preempting(Some(model), dynamic), None, "{model}");
        }
        assert_eq!(
            preempting(Some("full (lazy)\n"), dynamic),
            Some("lazy".to_owned())
        );
        assert_eq!(
            preempting(Some("none voluntary (full)\n"), dynamic),
            Some("full".to_owned())
        );
    }

    #[test]
    fn without_debugfs_the_kernels_version_line_does() {
        assert_eq!(
            preempting(None, "#1 SMP Debian 5.10.223-1 (2024-08-10)"),
            None
        );
        let model = |version| preempting(None, version);
        assert_eq!(
            model("#1 SMP PREEMPT_RT Debian 6.1"),
            Some("preempt_rt".to_owned())
        );
        assert_eq!(
            model("#1 SMP PREEMPT_DYNAMIC Debian 6.1"),
            Some("not known".to_owned())
        );
    }
}
