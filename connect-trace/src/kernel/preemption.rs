//! The preemption model: does the kernel preempt threads that run in it?
//!
//! While a preempted thread is inside a fentry or fexit program, the kernel skips that program for every other thread
//! of the CPU (`bpf_prog_enter_recur`): on a busy host that loses many calls at once. Kprobes run with preemption off.

use std::fs;

use super::mounts::Folder;

const DEBUGFS: &str = "/sys/kernel/debug";
/// The file of debugfs in which the scheduler shows its models: all that the kernel was built with, the present one in
/// parentheses (Linux 5.17).
pub const MODEL: &str = "sched/preempt";
/// File with the output of `uname -v`, which names the model if it cannot change.
const VERSION: &str = "/proc/sys/kernel/version";
/// Word in the version of a kernel whose model can change, by the command line or in debugfs.
const CAN_CHANGE: &str = "PREEMPT_DYNAMIC";

/// A model of preemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Name of the model; `None` if unknown.
    pub name: Option<String>,
    /// True if the model preempts threads in the kernel. An unknown model counts as preempting: to overlook one would
    /// lose records.
    pub preempts: bool,
}

impl Model {
    /// Reads the model of the running kernel.
    #[must_use]
    pub fn of_running_kernel() -> Self {
        let version = fs::read_to_string(VERSION).unwrap_or_default();
        let model = version.contains(CAN_CHANGE).then(|| {
            let debugfs = Folder::find("debugfs", &[DEBUGFS], MODEL).ok()?;
            fs::read_to_string(debugfs.path().join(MODEL)).ok()
        });
        Self::of(model.flatten().as_deref(), &version)
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
                Some(CAN_CHANGE) => None,
                Some(built) => Some(built.to_lowercase()),
                None => Some("none or voluntary".to_owned()),
            },
            preempts: built.is_some(),
        }
    }

    /// Returns a sentence that the kernel preempts threads in it, if it does or that is not known.
    #[must_use]
    pub fn preempting(&self) -> Option<String> {
        self.preempts.then(|| match &self.name {
            Some(name) => format!("this kernel preempts, model {name}"),
            None => "it is not known whether this kernel preempts".to_owned(),
        })
    }
}

/// Returns the sentence of [`Model::preempting`] for the running kernel.
#[must_use]
pub fn preempting_model() -> Option<String> {
    Model::of_running_kernel().preempting()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preempting(model: Option<&str>, version: &str) -> Option<String> {
        Model::of(model, version).preempting()
    }

    #[test]
    fn the_present_model_decides() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 6.18.15-1";
        for model in ["none (voluntary) full\n", "(none) voluntary full lazy\n"] {
            assert_eq!(preempting(Some(model), dynamic), None, "{model}");
        }
        assert_eq!(
            preempting(Some("full (lazy)\n"), dynamic),
            Some("this kernel preempts, model lazy".to_owned())
        );
        assert_eq!(
            preempting(Some("none voluntary (full)\n"), dynamic),
            Some("this kernel preempts, model full".to_owned())
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
            Some("this kernel preempts, model preempt_rt".to_owned())
        );
        assert_eq!(
            model("#1 SMP PREEMPT_DYNAMIC Debian 6.1"),
            Some("it is not known whether this kernel preempts".to_owned())
        );
    }
}
