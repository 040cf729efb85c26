//! Entry points for the waits within connect(): tracepoints, in every attach mode.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::phases;

/// Handles a context switch. The arguments are `bool preempt` and the `struct task_struct *` of the thread that leaves
/// the CPU and of the thread that gets it; later kernels pass more.
#[raw_tracepoint]
fn context_switch(ctx: RawTracePointContext) -> i32 {
    phases::switched(ctx.arg::<u64>(0) as u8 != 0, ctx.arg(2));
    0
}

/// Handles the beginning of a wait for a lock. The arguments are the address of the lock, and flags.
#[raw_tracepoint]
fn lock_wait_begin(ctx: RawTracePointContext) -> i32 {
    phases::lock_wait_begins(ctx.arg(0));
    0
}

/// Handles the end of a wait for a lock. The arguments are the address of the lock, and the outcome.
#[raw_tracepoint]
fn lock_wait_end(ctx: RawTracePointContext) -> i32 {
    phases::lock_wait_ends(ctx.arg(0));
    0
}
