//! The calls of `__inet_check_established` and `__inet6_check_established`: up to tens of thousands
//! for one connect(), so they are counted and timed here, and none of them is a record.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use connect_trace_common::{CheckEstablished, ConnectRecord, FilterBits, Flags, power_of_ten};

use crate::{
    filter,
    in_flight::Thread,
    layout::{CHECKS_ADD_UP, COUNT_CHECKS},
    maps::{CHECK_RUNNING, CHECKS, add},
    sock::AF_INET6,
};

/// Slot of `__inet_check_established` in [`CHECKS`].
pub const V4: u32 = 0;
/// Slot of `__inet6_check_established` in [`CHECKS`].
pub const V6: u32 = 1;

/// At the entry, where the calls are only counted: by the connect() that makes them, which adds them up when it
/// returns.
#[inline(always)]
pub fn counted() {
    if let Some(call) = Thread::current().call() {
        call.kept.record.checks += 1;
    }
}

/// At the return of a connect() whose calls were only counted.
#[inline(always)]
pub fn connect_returned(record: &ConnectRecord) {
    if CHECKS_ADD_UP.load() == 0 || record.checks == 0 {
        return;
    }
    let is_v6 = record.family == AF_INET6 && !record.flags.has(Flags::MAPPED);
    if let Some(checks) = CHECKS.get_ptr_mut(if is_v6 { V6 } else { V4 }) {
        // SAFETY: a live map value of this CPU.
        add(unsafe { &raw mut (*checks).calls }, record.checks.into());
    }
}

/// At the entry, where the calls are timed.
#[inline(always)]
pub fn entered(function: u32) {
    let thread = Thread::current();
    if !wants(thread) {
        return;
    }
    if let Some(checks) = CHECKS.get_ptr_mut(function) {
        // SAFETY: a live map value of this CPU.
        add(unsafe { &raw mut (*checks).calls }, 1);
    }
    if COUNT_CHECKS.load() != 0 {
        counted();
    }
    if let Some(running) = CHECK_RUNNING.get_ptr_mut(0) {
        // SAFETY: a live map value of this CPU.
        unsafe {
            (*running).thread = thread.id();
            (*running).start_ns = bpf_ktime_get_ns();
        }
    }
}

/// Whether this is a call of a traced connect(): where nothing is left out, all are.
#[inline(always)]
fn wants(thread: Thread) -> bool {
    let at_entry = FilterBits(!(FilterBits::FOLLOW.0 | FilterBits::FAILED.0));
    !filter::filters().any(at_entry) || thread.call().is_some()
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
    if running.thread != Thread::current().id() {
        return;
    }
    running.thread = 0;
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
