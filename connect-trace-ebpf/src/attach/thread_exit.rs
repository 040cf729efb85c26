//! The end of a thread, seen through the tracepoint `sched_process_exit` whatever the attach mode.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::connect;

#[raw_tracepoint]
fn thread_exit(ctx: RawTracePointContext) -> i32 {
    connect::thread_exited(&ctx);
    0
}
