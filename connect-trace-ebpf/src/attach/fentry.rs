//! Entry points for fentry and fexit. Their arguments are typed, so that a `struct sock` is read by plain loads. The
//! daemon checks the arguments used below against the kernel's BTF before it loads the programs.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    address::Address,
    check_established,
    connect::{self, Function, Return},
    sock::{Sock, Typed},
    time_wait,
};

/// Index of the `struct sock *` among the arguments of `tcp_v4_connect` and `tcp_v6_connect`.
const CONNECT_SOCK: usize = 0;
/// Index of the `struct inet_timewait_death_row *` among the arguments of `__inet_hash_connect`.
const SEARCH_DEATH_ROW: usize = 0;
/// Index of the `struct sock *` among the arguments of `__inet_hash_connect`.
const SEARCH_SOCK: usize = 1;
/// Index of the `u64 port_offset` among the arguments of `__inet_hash_connect`.
const SEARCH_PORT_OFFSET: usize = 2;
/// Index of the `struct sockaddr *` among the arguments of `tcp_v4_connect` and `tcp_v6_connect`.
const CONNECT_ADDRESS: usize = 1;
/// Index of the return value, which follows the three arguments of `tcp_v4_connect` and `tcp_v6_connect`.
const CONNECT_RETURN: usize = 3;
/// Index of the return value, which follows the three arguments of `tcp_twsk_unique`.
const TIME_WAIT_RETURN: usize = 3;

impl Return for FExitContext {
    type Memory = Typed;

    #[inline(always)]
    fn value(&self) -> i32 {
        self.arg(CONNECT_RETURN)
    }

    #[inline(always)]
    fn sock(&self, _kept: u64) -> Sock<Typed> {
        Sock(Typed(self.arg(CONNECT_SOCK)))
    }

    #[inline(always)]
    fn address(&self, _kept: u64) -> Address {
        Address(self.arg(CONNECT_ADDRESS))
    }
}

#[inline(always)]
fn entered(function: Function, ctx: &FEntryContext) -> i32 {
    let sock = Sock(Typed(ctx.arg(CONNECT_SOCK)));
    connect::entered(function, sock, Address(ctx.arg(CONNECT_ADDRESS)));
    0
}

#[fentry]
fn fentry_tcp_v4_connect(ctx: FEntryContext) -> i32 {
    entered(Function::V4, &ctx)
}

#[fexit]
fn fexit_tcp_v4_connect(ctx: FExitContext) -> i32 {
    connect::returned(Function::V4, &ctx);
    0
}

#[fentry]
fn fentry_tcp_v6_connect(ctx: FEntryContext) -> i32 {
    entered(Function::V6, &ctx)
}

#[fexit]
fn fexit_tcp_v6_connect(ctx: FExitContext) -> i32 {
    connect::returned(Function::V6, &ctx);
    0
}

#[fentry]
fn fentry_inet_hash_connect(ctx: FEntryContext) -> i32 {
    let sock = Sock(Typed(ctx.arg(SEARCH_SOCK)));
    let death_row = || ctx.arg(SEARCH_DEATH_ROW);
    connect::search_entered(sock, ctx.arg(SEARCH_PORT_OFFSET), death_row);
    0
}

#[fexit]
fn fexit_inet_hash_connect(ctx: FExitContext) -> i32 {
    connect::search_returned(|_| Sock(Typed(ctx.arg(SEARCH_SOCK))));
    0
}

#[fentry]
fn fentry_check_established_count(_ctx: FEntryContext) -> i32 {
    check_established::counted();
    0
}

#[fentry]
fn fentry_check_established(_ctx: FEntryContext) -> i32 {
    check_established::entered(check_established::V4);
    0
}

#[fexit]
fn fexit_check_established(_ctx: FExitContext) -> i32 {
    check_established::returned(check_established::V4);
    0
}

#[fentry]
fn fentry_check_established6_count(_ctx: FEntryContext) -> i32 {
    check_established::counted();
    0
}

#[fentry]
fn fentry_check_established6(_ctx: FEntryContext) -> i32 {
    check_established::entered(check_established::V6);
    0
}

#[fexit]
fn fexit_check_established6(_ctx: FExitContext) -> i32 {
    check_established::returned(check_established::V6);
    0
}

#[fexit]
fn fexit_twsk_unique(ctx: FExitContext) -> i32 {
    time_wait::returned(ctx.arg::<i32>(TIME_WAIT_RETURN) != 0);
    0
}
