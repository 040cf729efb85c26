//! Entry points for kprobe and kretprobe. A kretprobe does not see the arguments, so that the addresses of the socket
//! and of the passed `struct sockaddr` are kept in the call in flight. A `struct sock` is read by plain loads if the
//! kernel can cast an address to a type, else by a helper. The verifier removes the branch that is not for the running
//! kernel.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use connect_trace_common::Flags;

use super::registers::{self, argument};
use crate::{
    address::Address,
    cast, check_established,
    connect::{self, Function, Return},
    sock::{Cast, Memory, Sock, Untyped},
    time_wait,
};

/// Indexes of the arguments, as in `fentry.rs`.
const CONNECT_SOCK: usize = 0;
const SEARCH_DEATH_ROW: usize = 0;
const SEARCH_SOCK: usize = 1;
const SEARCH_PORT_OFFSET: usize = 2;
const CONNECT_ADDRESS: usize = 1;

/// Handles an entry of TCP.
#[inline(always)]
fn entered(function: Function, ctx: &ProbeContext) -> u32 {
    entered_by(Flags(0), function, ctx)
}

/// Handles an entry, and keeps the arguments that the kretprobe does not see. `protocol` is one of [`Flags::PROTOCOL`].
#[inline(always)]
pub(super) fn entered_by(protocol: Flags, function: Function, ctx: &ProbeContext) -> u32 {
    let sock: *const u8 = argument(ctx, CONNECT_SOCK);
    let address: *const u8 = argument(ctx, CONNECT_ADDRESS);
    let call = if cast::is_possible() {
        connect::entered(function, Sock(Cast::sock(sock)), Address(address))
    } else {
        connect::entered(function, Sock(Untyped(sock)), Address(address))
    };
    if let Some(call) = call {
        call.sock = sock as u64;
        call.address = address as u64;
        if protocol.0 != 0 {
            call.record.flags.set(protocol);
        }
    }
    0
}

/// A return seen by a kretprobe, and the function that makes an address the memory to read the socket from.
struct Returned<'a, M>(&'a RetProbeContext, fn(*const u8) -> M);

impl<M: Memory> Return for Returned<'_, M> {
    type Memory = M;

    #[inline(always)]
    fn value(&self) -> i32 {
        registers::returned(self.0)
    }

    #[inline(always)]
    fn sock(&self, kept: u64) -> Sock<M> {
        Sock((self.1)(kept as *const u8))
    }

    #[inline(always)]
    fn address(&self, kept: u64) -> Address {
        Address(kept as *const u8)
    }
}

#[inline(always)]
pub(super) fn returned(function: Function, ctx: &RetProbeContext) -> u32 {
    if cast::is_possible() {
        connect::returned(function, &Returned(ctx, Cast::sock));
    } else {
        connect::returned(function, &Returned(ctx, Untyped));
    }
    0
}

#[kprobe]
fn kprobe_tcp_v4_connect(ctx: ProbeContext) -> u32 {
    entered(Function::V4, &ctx)
}

#[kretprobe]
fn kretprobe_tcp_v4_connect(ctx: RetProbeContext) -> u32 {
    returned(Function::V4, &ctx)
}

#[kprobe]
fn kprobe_tcp_v6_connect(ctx: ProbeContext) -> u32 {
    entered(Function::V6, &ctx)
}

#[kretprobe]
fn kretprobe_tcp_v6_connect(ctx: RetProbeContext) -> u32 {
    returned(Function::V6, &ctx)
}

#[kprobe]
fn kprobe_inet_hash_connect(ctx: ProbeContext) -> u32 {
    let sock = argument(&ctx, SEARCH_SOCK);
    let port_offset = argument(&ctx, SEARCH_PORT_OFFSET);
    let death_row = || argument(&ctx, SEARCH_DEATH_ROW);
    if cast::is_possible() {
        connect::search_entered(Sock(Cast::sock(sock)), port_offset, death_row);
    } else {
        connect::search_entered(Sock(Untyped(sock)), port_offset, death_row);
    }
    0
}

#[kretprobe]
fn kretprobe_inet_hash_connect(_ctx: RetProbeContext) -> u32 {
    if cast::is_possible() {
        connect::search_returned(|kept| Sock(Cast::sock(kept as *const u8)));
    } else {
        connect::search_returned(|kept| Sock(Untyped(kept as *const u8)));
    }
    0
}

#[kprobe]
fn kprobe_check_established_count(_ctx: ProbeContext) -> u32 {
    check_established::counted();
    0
}

#[kprobe]
fn kprobe_check_established(_ctx: ProbeContext) -> u32 {
    check_established::entered(check_established::V4);
    0
}

#[kretprobe]
fn kretprobe_check_established(_ctx: RetProbeContext) -> u32 {
    check_established::returned(check_established::V4);
    0
}

#[kprobe]
fn kprobe_check_established6_count(_ctx: ProbeContext) -> u32 {
    check_established::counted();
    0
}

#[kprobe]
fn kprobe_check_established6(_ctx: ProbeContext) -> u32 {
    check_established::entered(check_established::V6);
    0
}

#[kretprobe]
fn kretprobe_check_established6(_ctx: RetProbeContext) -> u32 {
    check_established::returned(check_established::V6);
    0
}

#[kretprobe]
fn kretprobe_twsk_unique(ctx: RetProbeContext) -> u32 {
    time_wait::returned(registers::returned::<i32>(&ctx) != 0);
    0
}
