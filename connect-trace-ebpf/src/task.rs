//! Reading the `struct task_struct` of the thread that runs: through a typed pointer where the kernel gives
//! one (5.11), which is a few loads, else by the helpers for it.

use aya_ebpf::helpers::{bpf_get_current_uid_gid, generated};
use connect_trace_common::record::COMM_WORDS;

use crate::{
    layout::{ABSENT, CRED_UID, TASK_COMM, TASK_CRED},
    sock::{Memory, Typed},
};

/// The thread that runs, where there is a typed pointer to it.
#[derive(Clone, Copy)]
pub struct Task(Option<Typed>);

impl Task {
    /// `bpf_get_current_task_btf`
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: a helper without preconditions.
        let task = || Typed(unsafe { generated::bpf_get_current_task_btf() } as *const u8);
        Self((TASK_COMM.load() != ABSENT).then(task))
    }

    /// `comm`: the name.
    #[inline(always)]
    pub fn comm(self) -> [u64; COMM_WORDS] {
        if let Some(task) = self.0 {
            let offset = TASK_COMM.load();
            return [task.read(offset), task.read(offset + 8)];
        }
        let mut comm = [0; COMM_WORDS];
        // SAFETY: the helper writes as many bytes as `comm` has.
        unsafe {
            generated::bpf_get_current_comm((&raw mut comm).cast(), size_of_val(&comm) as u32)
        };
        comm
    }

    /// The real user id, as the initial user namespace counts.
    #[inline(always)]
    pub fn uid(self) -> u32 {
        match self.0 {
            Some(task) => task.follow(TASK_CRED.load()).read(CRED_UID.load()),
            None => bpf_get_current_uid_gid() as u32,
        }
    }
}
