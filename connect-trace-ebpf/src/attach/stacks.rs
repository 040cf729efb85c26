//! Entry points for kernel stacks: a perf event on the CPU clock, and a tracepoint, in every attach mode. Only the trace
//! of a flame graph loads them.

use aya_ebpf::{
    macros::{perf_event, raw_tracepoint},
    programs::{PerfEventContext, RawTracePointContext},
};

use crate::stacks;

#[perf_event]
fn stacks_clock(ctx: PerfEventContext) -> i32 {
    stacks::ticked(&ctx);
    0
}

/// Handles a switch. The arguments are `bool preempt`, and the `struct task_struct *` of the thread before, which is
/// still the running one, and of the thread after.
#[raw_tracepoint]
fn stacks_switch(ctx: RawTracePointContext) -> i32 {
    let preempt: u64 = ctx.arg(0);
    let next: u64 = ctx.arg(2);
    stacks::switched(&ctx, preempt != 0, next);
    0
}
