//! The calls of `__inet_check_established` and `__inet6_check_established`: up to tens of thousands
//! for one connect(), so they are counted and timed here, and none of them is a record.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use connect_trace_common::{CheckEstablished, ConnectRecord, FilterBits, Flags, power_of_ten};

use crate::{
    filter,
    in_flight::Thread,
    layout::{CHECKS_ADD_UP, COUNT_CHECKS},
    shared::{add, per_cpu},
    sock::AF_INET6,
};

/// `__inet_check_established` in [`connect_trace_common::counters::PerCpu::checks`].
pub const V4: usize = 0;
/// `__inet6_check_established` in it.
pub const V6: usize = 1;

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
    let checks = of_this_cpu(if is_v6 { V6 } else { V4 });
    // SAFETY: within the variable.
    add(unsafe { &raw mut (*checks).calls }, record.checks.into());
}

/// At the entry, where the calls are timed.
#[inline(always)]
pub fn entered(function: usize) {
    let thread = Thread::current();
    if !wants(thread) {
        return;
    }
    // SAFETY: within the variable.
    add(unsafe { &raw mut (*of_this_cpu(function)).calls }, 1);
    if COUNT_CHECKS.load() != 0 {
        counted();
    }
    // SAFETY: as above; only programs of this CPU use it, and each sees by the thread whether it is its own.
    unsafe {
        let running = &raw mut (*per_cpu()).running;
        (*running).thread = thread.id();
        (*running).start_ns = bpf_ktime_get_ns();
    }
}

/// What is aggregated of a function on this CPU.
#[inline(always)]
fn of_this_cpu(function: usize) -> *mut CheckEstablished {
    // SAFETY: within the variable.
    unsafe {
        (&raw mut (*per_cpu()).checks)
            .cast::<CheckEstablished>()
            .add(function)
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
pub fn returned(function: usize) {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: within the variable.
    let running = unsafe { &mut (*per_cpu()).running };
    if running.thread != Thread::current().id() {
        return;
    }
    running.thread = 0;
    timed(of_this_cpu(function), now - running.start_ns);
}

#[inline(always)]
fn timed(checks: *mut CheckEstablished, ns: u64) {
    // SAFETY: within the variable; the bucket is below the length by construction.
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
