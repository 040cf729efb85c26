//! Attaching programs to the kernel's functions, in one of two ways, and detaching them.

pub(crate) mod attachment;
pub(crate) mod choice;
pub(crate) mod fentry;
pub(crate) mod functions;
mod janitor;
pub(crate) mod kprobe;
pub(crate) mod link;
pub(crate) mod misses;
pub(crate) mod perf_event;
pub(crate) mod return_events;

use std::fmt;

use crate::kernel::prototypes::Function;

/// Way in which the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// fentry and fexit: a trampoline at the function. No return is lost for lack of slots. Returns of calls in flight
    /// are lost, and counted, when another tracer attaches or detaches (`bpf_tramp_image_put`,
    /// kernel/bpf/trampoline.c).
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

impl AttachMode {
    /// Returns the name of the program for the entry of a function.
    pub(crate) fn entry_program(self, function: &Function) -> String {
        let kind = match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        };
        format!("{kind}_{}", function.program)
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fentry => "fentry/fexit",
            Self::Kprobe => "kprobe/kretprobe",
        })
    }
}
