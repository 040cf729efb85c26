//! The variables that the daemon reads and writes while the programs run. The daemon creates them as maps of one value in
//! its own memory and links the programs with them: a system call that reads a map would keep the kernel from running
//! kprobe programs meanwhile.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use connect_trace_common::{
    Control, FastGroup, FastKind, FastSums, Times,
    counters::{COPIES, PerCpu},
    power_of_ten,
    record::PLACES,
};

unsafe extern "C" {
    /// Counters and sums, by CPU.
    static mut PER_CPU: [PerCpu; COPIES];

    /// Calls below the minimum latency, by CPU. The daemon makes it this long if the run has a minimum latency.
    static mut FAST: [FastSums; COPIES];

    /// For each place of a call in flight the thread that has it: see `in_flight.rs`.
    pub static mut THREADS: [u64; PLACES];

    /// Written by the daemon.
    static mut CONTROL: Control;
}

/// A word of [`Control`] as it is now, by its name.
macro_rules! control {
    ($name:ident) => {
        $crate::shared::control_word(core::mem::offset_of!(connect_trace_common::Control, $name))
    };
}
pub(crate) use control;

/// The word of [`Control`] at an offset, for [`control!`].
#[inline(always)]
pub fn control_word(offset: usize) -> u64 {
    // SAFETY: an aligned word of the variable, which the daemon writes whole.
    unsafe {
        (&raw const CONTROL)
            .cast::<u64>()
            .byte_add(offset)
            .read_volatile()
    }
}

/// Returns the counters and sums of this CPU.
#[inline(always)]
pub fn per_cpu() -> *mut PerCpu {
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as usize;
    // SAFETY: within the array.
    unsafe { (&raw mut PER_CPU).cast::<PerCpu>().add(cpu % COPIES) }
}

/// Returns the sums of a kind of calls below the minimum latency on this CPU.
#[inline(always)]
pub fn fast_group(FastKind(kind): FastKind) -> *mut FastGroup {
    const { assert!(FastKind::KINDS == 64) };
    let mut kind = u64::from(kind);
    // The compiler knows that the kind is below 64, and would remove a mask that it sees; the verifier of older kernels
    // does not know. SAFETY: the instruction has no other effect.
    unsafe {
        core::arch::asm!("{} &= 63", inout(reg) kind, options(pure, nomem, nostack));
    }
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as usize;
    // SAFETY: within the array.
    unsafe {
        let sums = (&raw mut FAST).cast::<FastSums>().add(cpu % COPIES);
        sums.cast::<FastGroup>().add(kind as usize)
    }
}

/// This CPU's counter, by its name in [`connect_trace_common::Counters`].
macro_rules! counter {
    ($name:ident) => {
        // SAFETY: within the variable.
        unsafe { &raw mut (*$crate::shared::per_cpu()).counters.$name }
    };
}
pub(crate) use counter;

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: *mut u64) {
    add(counter, 1);
}

/// Adds to a word of a variable. Atomic, because on a preemptible kernel another thread may run the same
/// program on the same CPU in the middle of an addition.
#[inline(always)]
pub fn add(word: *mut u64, value: u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // An intrinsic, because the target has no compare-and-swap and so no `AtomicU64::fetch_add`.
    // SAFETY: `word` points to an aligned word of a variable; every writer in the kernel uses this.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, value) };
}

/// Adds a time to sums.
#[inline(always)]
pub fn add_time(times: *mut Times, ns: u64) {
    // SAFETY: within the variable; the bucket is below the length by construction.
    unsafe {
        add(&raw mut (*times).total_ns, ns);
        add(
            (&raw mut (*times).buckets)
                .cast::<u64>()
                .add(power_of_ten(ns)),
            1,
        );
        if ns > (*times).max_ns {
            (*times).max_ns = ns;
        }
    }
}
