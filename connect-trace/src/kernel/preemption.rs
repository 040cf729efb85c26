//! Whether the kernel preempts threads that run in it.
//!
//! A preempted thread that is inside a program of fentry or fexit makes the kernel skip that program
//! for every other thread of the CPU until it runs again (`bpf_prog_enter_recur`): on a busy host that
//! loses many calls at once. Kprobes run with preemption off.

use std::fs;

/// Where the scheduler shows its model: all that the kernel was built with, the present one in
/// parentheses (`CONFIG_PREEMPT_DYNAMIC`, Linux 5.17).
pub const MODEL: &str = "/sys/kernel/debug/sched/preempt";
/// `uname -v`: names the model where it cannot change.
const VERSION: &str = "/proc/sys/kernel/version";

/// A model of preemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name; `None` where it is not known.
    pub name: Option<String>,
    /// Whether it preempts threads in the kernel. An unknown one is taken to: overlooked, it would cost
    /// records.
    pub preempts: bool,
}

impl Model {
    /// The running kernel's.
    #[must_use]
    pub fn of_running_kernel() -> Self {
        let model = fs::read_to_string(MODEL).ok();
        let version = fs::read_to_string(VERSION).unwrap_or_default();
        Self::of(model.as_deref(), &version)
    }

    fn of(model: Option<&str>, version: &str) -> Self {
        let present = model
            .and_then(|model| model.split_once('(')?.1.split_once(')'))
            .map(|found| found.0);
        if let Some(present) = present {
            return Self {
                name: Some(present.to_owned()),
                preempts: !matches!(present, "none" | "voluntary"),
            };
        }
        let built = version
            .split_whitespace()
            .find(|word| word.starts_with("PREEMPT"));
        Self {
            name: match built {
                Some("PREEMPT_DYNAMIC") => None,
                Some(built) => Some(built.to_lowercase()),
                None => Some("none or voluntary".to_owned()),
            },
            preempts: built.is_some(),
        }
    }

    /// The name of the model, if it preempts threads in the kernel.
    #[must_use]
    pub fn preempting(&self) -> Option<&str> {
        self.preempts
            .then(|| self.name.as_deref().unwrap_or("not known"))
    }
}

/// The name of the running kernel's model, if it preempts threads in the kernel.
#[must_use]
pub fn preempting_model() -> Option<String> {
    Model::of_running_kernel().preempting().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preempting(model: Option<&str>, version: &str) -> Option<String> {
        Model::of(model, version).preempting().map(str::to_owned)
    }

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
