//! Updates of the set of traced processes: a child of a traced process is added if the run follows children, and a
//! process that ends is removed, before the kernel can give its id to another process.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_task};
use connect_trace_common::{Field, FilterBits};

use crate::{
    filter,
    maps::PIDS,
    shared::{count, counter},
    sock::{Memory, Untyped},
};

/// Handles `sched_process_fork`, before the child runs. `child` is the child's `struct task_struct *`.
#[inline(always)]
pub fn forked(child: *const u8) {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let child: u32 = Untyped(child).read(Field::TaskTgid);
    // A new thread has the process id of its parent, and nothing is to be added.
    if child != parent && PIDS.get_ptr(&parent).is_some() && PIDS.insert(&child, &1, 0).is_err() {
        count(counter!(not_followed));
    }
}

/// Handles `sched_process_exit`, which the kernel calls for each thread.
#[inline(always)]
pub fn exited() {
    if !filter::filters().any(FilterBits::PIDS) {
        return;
    }
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let signal = Untyped(task).follow(Field::TaskSignal);
    // The kernel has already subtracted this thread from the count.
    let threads_left: u32 = signal.read(Field::SignalLive);
    if threads_left == 0 {
        filter::forget_process(pid);
    }
}
