//! Kernel stacks of threads inside connect(): at each tick of the CPU clock, and when such a thread gives up its CPU. The
//! daemon makes a flame graph of them.

use core::slice;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    btf_maps::{Array, PerCpuArray, RingBuf},
    helpers::{bpf_ktime_get_ns, generated::bpf_get_stack},
    macros::btf_map,
    programs::PerfEventContext,
};
use connect_trace_common::{InFlight, SampleKind, StackCounts, StackSample};

use crate::{in_flight::Thread, shared::count};

/// Samples on their way to the daemon; one page unless a flame graph is asked for.
#[btf_map]
pub static STACKS: RingBuf<StackSample, 4096> = RingBuf::new();

/// The account of the samples.
#[btf_map]
pub static STACK_COUNTS: Array<StackCounts, 1> = Array::new();

/// The samples that are being made: larger than the stack of a program. One for each program, because the clock can
/// interrupt the program at `sched_switch` if interrupts are threads (PREEMPT_RT).
#[btf_map]
pub static STACK_SCRATCH: PerCpuArray<StackSample, 2> = PerCpuArray::new();

/// Elements of [`STACK_SCRATCH`].
const CLOCK: u32 = 0;
const SWITCH: u32 = 1;

/// Handles a tick of the CPU clock.
#[inline(always)]
pub fn ticked(ctx: &PerfEventContext) {
    let Some(sample) = scratch(CLOCK) else {
        return;
    };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // Stored at ticks outside of connect() too, so that the next one knows how long ago the last one was.
    let last = sample.header.at_ns;
    sample.header.at_ns = now;
    if let Some(call) = Thread::current().call() {
        sample.header.elapsed_ns = match last {
            0 => 0,
            last => now - last,
        };
        sample.header.kind = SampleKind::RUNNING;
        write(sample, call.kept, Some(ctx));
    }
}

/// Handles `sched_switch`. `preempt` is true if the running thread could have gone on, and `next` is the
/// `struct task_struct *` of the thread that gets the CPU.
#[inline(always)]
pub fn switched(ctx: &impl EbpfContext, preempt: bool, next: u64) {
    let Some(sample) = scratch(SWITCH) else {
        return;
    };
    // SAFETY: a helper without preconditions.
    sample.header.at_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(call) = Thread::current().call() {
        sample.header.kind = match preempt {
            true => SampleKind::PREEMPTED,
            false => SampleKind::BLOCKED,
        };
        write(sample, call.kept, Some(ctx));
    }
    if let Some(call) = Thread::of(next).call() {
        sample.header.kind = SampleKind::RESUMED;
        write(sample, call.kept, None::<&PerfEventContext>);
    }
}

/// Returns an element of [`STACK_SCRATCH`].
#[inline(always)]
fn scratch(index: u32) -> Option<&'static mut StackSample> {
    let sample = STACK_SCRATCH.get_ptr_mut(index)?;
    // SAFETY: a live map value of this CPU that only this run of the program uses.
    Some(unsafe { &mut *sample })
}

/// Completes a sample of the thread that makes `call`, with the stack of the running thread if `ctx` is given, and
/// writes it into the ring buffer.
#[inline(always)]
fn write(sample: &mut StackSample, call: &InFlight, ctx: Option<&impl EbpfContext>) {
    let Some(counts) = STACK_COUNTS.get_ptr_mut(0) else {
        return;
    };
    let record = &call.record;
    sample.header.pid_tgid = record.pid_tgid;
    sample.header.call_ns = record.start_ns;
    sample.header.flags = u64::from(record.flags.0);
    if call.entered_v6 != 0 {
        sample.header.flags |= StackSample::IN_V6;
    }
    let mut bytes = 0;
    if let Some(ctx) = ctx {
        let frames = (&raw mut sample.frames).cast();
        // SAFETY: there is room for this number of bytes.
        let got = unsafe { bpf_get_stack(ctx.as_ptr(), frames, StackSample::MOST_BYTES as u32, 0) };
        // Without a stack, the sample still counts.
        bytes = got.max(0) as usize & StackSample::MASK;
    }
    // SAFETY: within the value, by the mask.
    let written = unsafe {
        slice::from_raw_parts(
            (&raw const *sample).cast::<u8>(),
            StackSample::HEADER + bytes,
        )
    };
    // SAFETY: within a live map value.
    let (taken, ring_full) = unsafe { (&raw mut (*counts).taken, &raw mut (*counts).ring_full) };
    count(taken);
    // No wakeup, because the scheduler holds a lock that a wakeup takes.
    if STACKS
        .output_untyped::<[u8]>(written, u64::from(BPF_RB_NO_WAKEUP))
        .is_err()
    {
        count(ring_full);
    }
}
