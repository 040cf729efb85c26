//! The calls of `__inet_check_established` and `__inet6_check_established`: up to tens of thousands
//! for one connect(), so they are counted and timed here, and none of them is a record.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use connect_trace_common::{CheckEstablished, FilterBits, power_of_ten};

use crate::{
    filter, in_flight,
    layout::COUNT_CHECKS,
    maps::{CHECK_RUNNING, CHECKS, add},
};

/// Slot of `__inet_check_established` in [`CHECKS`].
pub const V4: u32 = 0;
/// Slot of `__inet6_check_established` in [`CHECKS`].
pub const V6: u32 = 1;

/// At the entry, where the calls are only counted.
#[inline(always)]
pub fn counted(function: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    if wants(pid_tgid) {
        call(function, pid_tgid);
    }
}

/// At the entry, where the calls are timed.
#[inline(always)]
pub fn entered(function: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    if !wants(pid_tgid) {
        return;
    }
    call(function, pid_tgid);
    if let Some(running) = CHECK_RUNNING.get_ptr_mut(0) {
        // SAFETY: a live map value of this CPU.
        unsafe {
            (*running).pid_tgid = pid_tgid;
            (*running).start_ns = bpf_ktime_get_ns();
        }
    }
}

/// Whether this is a call of a traced connect(): where nothing is left out, all are.
#[inline(always)]
fn wants(pid_tgid: u64) -> bool {
    let at_entry = FilterBits(!(FilterBits::FOLLOW.0 | FilterBits::FAILED.0));
    !filter::filters().any(at_entry) || in_flight::current(pid_tgid).is_some()
}

#[inline(always)]
fn call(function: u32, pid_tgid: u64) {
    if let Some(checks) = CHECKS.get_ptr_mut(function) {
        // SAFETY: a live map value of this CPU.
        add(unsafe { &raw mut (*checks).calls }, 1);
    }
    if COUNT_CHECKS.load() != 0
        && let Some(call) = in_flight::current(pid_tgid)
    {
        call.record.checks += 1;
    }
}

/// At the return. Kept per CPU, the cheapest place: the function runs for less than a microsecond,
/// and the rare call that was preempted or has migrated in its middle is counted and not timed.
#[inline(always)]
pub fn returned(function: u32) {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(running) = CHECK_RUNNING.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a live map value of this CPU.
    let running = unsafe { &mut *running };
    if running.pid_tgid != bpf_get_current_pid_tgid() {
        return;
    }
    running.pid_tgid = 0;
    let ns = now - running.start_ns;
    if let Some(checks) = CHECKS.get_ptr_mut(function) {
        timed(checks, ns);
    }
}

#[inline(always)]
fn timed(checks: *mut CheckEstablished, ns: u64) {
    // SAFETY: a live map value of this CPU; the bucket is below the length by construction.
    unsafe {
        add(&raw mut (*checks).timed, 1);
        add(&raw mut (*checks).total_ns, ns);
        add(
            (&raw mut (*checks).buckets)
                .cast::<u64>()
                .add(power_of_ten(ns)),
            1,
        );
        if ns > (*checks).max_ns {
            (*checks).max_ns = ns;
        }
    }
}
