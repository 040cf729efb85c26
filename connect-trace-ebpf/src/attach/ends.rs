//! Entry point for the states of sockets: a tracepoint, in every attach mode.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::ends;

/// Handles a change of a socket's state, `inet_sock_set_state`. The arguments are the `struct sock *`, the old state
/// and the new one.
#[raw_tracepoint]
fn sock_state(ctx: RawTracePointContext) -> i32 {
    ends::state_changed(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}
