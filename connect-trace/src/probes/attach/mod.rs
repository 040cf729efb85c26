//! Putting programs on the kernel's functions, in one of two ways, and taking them off.

pub(crate) mod attachment;
pub(crate) mod choice;
pub(crate) mod fentry;
pub(crate) mod functions;
mod janitor;
pub(crate) mod kprobe;
pub(crate) mod link;
pub(crate) mod misses;
mod perf_event;
pub(crate) mod return_events;

use std::fmt;

use crate::kernel::prototypes::Function;

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// fentry and fexit: a trampoline at the function. No return is lost for lack of room, but those of calls in flight
    /// are when another tracer comes or goes (`bpf_tramp_image_put`, kernel/bpf/trampoline.c), and are counted.
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

impl AttachMode {
    /// Name of the program for the entry of a function.
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
