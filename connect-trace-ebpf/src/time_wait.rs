//! The candidate ports in TIME_WAIT that port searches meet: the returns of `tcp_twsk_unique`, which the kernel calls once
//! for each of them, with a lock held.

use connect_trace_common::{Flags, counters::TimeWaitCounts};

use crate::{
    in_flight::Thread,
    shared::{count, per_cpu},
};

/// Handles the return. A call outside a traced search is not counted: a port that was bound before connect() is checked
/// by other rules.
#[inline(always)]
pub fn returned(is_reused: bool) {
    let Some(call) = Thread::current().call() else {
        return;
    };
    let flags = &mut call.kept.record.flags;
    if !flags.has(Flags::SEARCH_ENTERED) || flags.has(Flags::PORT_BOUND) {
        return;
    }
    // SAFETY: within the variable.
    let counts: *mut TimeWaitCounts = unsafe { &raw mut (*per_cpu()).time_wait };
    // SAFETY: within the variable.
    let [refused, reused, calls] = unsafe {
        [
            &raw mut (*counts).refused,
            &raw mut (*counts).reused,
            &raw mut (*counts).calls,
        ]
    };
    count(if is_reused { reused } else { refused });
    if !flags.has(Flags::TIME_WAIT_MET) {
        flags.set(Flags::TIME_WAIT_MET);
        count(calls);
    }
}
