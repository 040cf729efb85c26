//! Entry points for processes that fork and threads that end: tracepoints, in every attach mode.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{connect, process};

#[raw_tracepoint]
fn thread_exit(ctx: RawTracePointContext) -> i32 {
    connect::thread_exited(&ctx);
    process::exited();
    0
}

/// Handles a fork. The arguments are the `struct task_struct *` of the parent and of the child.
#[raw_tracepoint]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    let child: *const u8 = ctx.arg(1);
    process::forked(child);
    0
}
