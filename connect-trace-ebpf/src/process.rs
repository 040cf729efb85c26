//! The traced processes as they come and go: a child of one joins them, where that is asked for, and one
//! that ends leaves them, before its id can be given to another.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated::bpf_get_current_task,
};
use connect_trace_common::FilterBits;

use crate::{
    filter,
    layout::{SIGNAL_LIVE, TASK_SIGNAL, TASK_TGID},
    maps::{PIDS, count, counter},
};

/// At `sched_process_fork`, before the child runs. `child` is its `struct task_struct *`.
#[inline(always)]
pub fn forked(child: *const u8) {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let child: u32 = read(child, TASK_TGID.load());
    // A thread is of its process.
    if child != parent && PIDS.get_ptr(&parent).is_some() && PIDS.insert(&child, &1, 0).is_err() {
        count(counter!(not_followed));
    }
}

/// At `sched_process_exit`, for each thread.
#[inline(always)]
pub fn exited() {
    if !filter::filters().any(FilterBits::PIDS) {
        return;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let signal: *const u8 = read(task, TASK_SIGNAL.load());
    // The kernel has taken this thread off already.
    let threads_left: u32 = read(signal, SIGNAL_LIVE.load());
    if threads_left == 0 {
        let _ = PIDS.remove(&pid);
    }
}

#[inline(always)]
fn read<T: Copy>(structure: *const u8, offset: u32) -> T {
    // SAFETY: the helper checks the address; T is plain data for which all zeros is valid.
    unsafe {
        bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<T>())
            .unwrap_or(core::mem::zeroed())
    }
}
