//! Reading the `struct task_struct` of the thread that runs: through a typed pointer where the kernel gives
//! one (5.11), which is a few loads, else by the helpers for it.

use aya_ebpf::helpers::{bpf_get_current_uid_gid, generated};
use connect_trace_common::record::COMM_WORDS;

use crate::{
    layout::{ABSENT, CRED_UID, TASK_COMM, TASK_CRED},
    sock::{Memory, Typed},
};

/// `comm`: the name of the thread.
#[inline(always)]
pub fn comm(comm: &mut [u64; COMM_WORDS]) {
    if let Some(task) = current() {
        comm[0] = task.read(TASK_COMM.load());
        comm[1] = task.read(TASK_COMM.load() + 8);
    } else {
        // SAFETY: the helper writes as many bytes as `comm` has.
        unsafe {
            generated::bpf_get_current_comm((&raw mut *comm).cast(), size_of_val(comm) as u32)
        };
    }
}

/// The real user id, as the initial user namespace counts.
#[inline(always)]
pub fn uid() -> u32 {
    match current() {
        Some(task) => task.follow(TASK_CRED.load()).read(CRED_UID.load()),
        None => bpf_get_current_uid_gid() as u32,
    }
}

/// `bpf_get_current_task_btf`; `None` where the kernel has no such helper.
#[inline(always)]
fn current() -> Option<Typed> {
    // SAFETY: a helper without preconditions.
    (TASK_COMM.load() != ABSENT)
        .then(|| Typed(unsafe { generated::bpf_get_current_task_btf() } as *const u8))
}
