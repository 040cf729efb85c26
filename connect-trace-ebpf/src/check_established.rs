//! The calls of `__inet_check_established` and `__inet6_check_established`. One connect() makes up to tens of thousands of
//! them, so they are counted and timed here and get no records.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use connect_trace_common::{CheckEstablished, ConnectRecord, Flags, counters::CheckRunning};

use crate::{
    in_flight::Thread,
    params::param,
    shared::{add, add_time, per_cpu},
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
    if param!(checks_add_up) == 0 || record.checks == 0 {
        return;
    }
    let is_v6 = record.family == AF_INET6 && !record.flags.has(Flags::MAPPED);
    let checks = of_this_cpu(if is_v6 { V6 } else { V4 });
    // SAFETY: within the variable.
    add(unsafe { &raw mut (*checks).calls }, record.checks.into());
}

/// At the entry, where the calls are timed: those of traced connects, each of which counts its own.
#[inline(always)]
pub fn entered(function: usize) {
    let thread = Thread::current();
    let Some(call) = thread.call() else {
        return;
    };
    call.kept.record.checks += 1;
    // SAFETY: within the variable.
    add(unsafe { &raw mut (*of_this_cpu(function)).calls }, 1);
    let running = running();
    // SAFETY: within the variable; the return sees by the thread whether this is its own.
    unsafe {
        (&raw mut (*running).thread).write_volatile(thread.id());
        (&raw mut (*running).start_ns).write_volatile(bpf_ktime_get_ns());
    }
}

/// Returns the call that runs on this CPU, as a pointer and never a reference: threads that preempt this one write to it.
#[inline(always)]
fn running() -> *mut CheckRunning {
    // SAFETY: within the variable.
    unsafe { &raw mut (*per_cpu()).running }
}

/// Returns the sums of a function on this CPU.
#[inline(always)]
fn of_this_cpu(function: usize) -> *mut CheckEstablished {
    // SAFETY: within the variable.
    unsafe {
        (&raw mut (*per_cpu()).checks)
            .cast::<CheckEstablished>()
            .add(function)
    }
}

/// Runs at the return. The start is kept per CPU, the cheapest place: the function runs for less than a microsecond, and a
/// call that was preempted or has migrated in its middle, which is rare, is counted and not timed.
#[inline(always)]
pub fn returned(function: usize) {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let running = running();
    // SAFETY: within the variable.
    let (thread, start_ns) = unsafe {
        (
            (&raw const (*running).thread).read_volatile(),
            (&raw const (*running).start_ns).read_volatile(),
        )
    };
    if thread != Thread::current().id() {
        return;
    }
    // SAFETY: within the variable.
    unsafe { (&raw mut (*running).thread).write_volatile(0) };
    // SAFETY: within the variable.
    let times = unsafe { &raw mut (*of_this_cpu(function)).times };
    add_time(times, now.saturating_sub(start_ns));
}
