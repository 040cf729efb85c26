//! Entry points for kprobe and kretprobe. A return does not see the arguments, so the socket's address
//! is kept in the call in flight; a `struct sock` is read by plain loads where the kernel gives its type to an
//! address, else by a helper. The verifier leaves out what is not for the running kernel.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{
    cast, check_established,
    connect::{self, Function},
    sock::{Cast, Sock, Untyped},
};

/// The arguments, as in `fentry.rs`.
const CONNECT_SOCK: usize = 0;
const SEARCH_SOCK: usize = 1;
const SEARCH_PORT_OFFSET: usize = 2;
const CONNECT_ADDRESS: usize = 1;

#[kprobe]
fn kprobe_tcp_v4_connect(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(address)) = (ctx.arg(CONNECT_SOCK), ctx.arg(CONNECT_ADDRESS)) {
        if cast::is_possible() {
            connect::entered(Function::V4, Sock(Cast::sock(sock)), address);
        } else {
            connect::entered(Function::V4, Sock(Untyped(sock)), address);
        }
    }
    0
}

#[kretprobe]
fn kretprobe_tcp_v4_connect(ctx: RetProbeContext) -> u32 {
    if cast::is_possible() {
        connect::returned(Function::V4, ctx.ret(), |sock| {
            Sock(Cast::sock(sock as *const u8))
        });
    } else {
        connect::returned(Function::V4, ctx.ret(), |sock| {
            Sock(Untyped(sock as *const u8))
        });
    }
    0
}

#[kprobe]
fn kprobe_tcp_v6_connect(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(address)) = (ctx.arg(CONNECT_SOCK), ctx.arg(CONNECT_ADDRESS)) {
        if cast::is_possible() {
            connect::entered(Function::V6, Sock(Cast::sock(sock)), address);
        } else {
            connect::entered(Function::V6, Sock(Untyped(sock)), address);
        }
    }
    0
}

#[kretprobe]
fn kretprobe_tcp_v6_connect(ctx: RetProbeContext) -> u32 {
    if cast::is_possible() {
        connect::returned(Function::V6, ctx.ret(), |sock| {
            Sock(Cast::sock(sock as *const u8))
        });
    } else {
        connect::returned(Function::V6, ctx.ret(), |sock| {
            Sock(Untyped(sock as *const u8))
        });
    }
    0
}

#[kprobe]
fn kprobe_inet_hash_connect(ctx: ProbeContext) -> u32 {
    if let (Some(sock), Some(port_offset)) = (ctx.arg(SEARCH_SOCK), ctx.arg(SEARCH_PORT_OFFSET)) {
        if cast::is_possible() {
            connect::search_entered(Sock(Cast::sock(sock)), port_offset);
        } else {
            connect::search_entered(Sock(Untyped(sock)), port_offset);
        }
    }
    0
}

#[kretprobe]
fn kretprobe_inet_hash_connect(_ctx: RetProbeContext) -> u32 {
    connect::search_returned();
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
