//! Entry points for fentry and fexit. The daemon checks the arguments used below against the kernel's BTF before it loads
//! the programs.

use aya_ebpf::{
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    address::Address,
    sock::{Sock, Socket, Typed},
    udp,
};

/// Indexes of the arguments of `inet_dgram_connect`, and of the return value that follows them.
const CONNECT_SOCKET: usize = 0;
const CONNECT_ADDRESS: usize = 1;
const CONNECT_LENGTH: usize = 2;
const CONNECT_RETURN: usize = 4;
/// The same of `inet_autobind`.
const AUTOBIND_SOCK: usize = 0;
const AUTOBIND_RETURN: usize = 1;
/// The same of `udp_lib_get_port`.
const SEARCH_SOCK: usize = 0;
const SEARCH_PORT: usize = 1;
const SEARCH_RETURN: usize = 3;

#[fentry]
fn fentry_inet_dgram_connect(ctx: FEntryContext) -> i32 {
    let sock = Socket(Typed(ctx.arg(CONNECT_SOCKET))).sock();
    udp::connect_entered(
        sock,
        Address(ctx.arg(CONNECT_ADDRESS)),
        ctx.arg(CONNECT_LENGTH),
    );
    0
}

#[fexit]
fn fexit_inet_dgram_connect(ctx: FExitContext) -> i32 {
    let sock = |_| Socket(Typed(ctx.arg(CONNECT_SOCKET))).sock();
    udp::connect_returned(ctx.arg(CONNECT_RETURN), sock);
    0
}

#[fentry]
fn fentry_inet_autobind(ctx: FEntryContext) -> i32 {
    udp::autobind_entered(Sock(Typed(ctx.arg(AUTOBIND_SOCK))));
    0
}

#[fexit]
fn fexit_inet_autobind(ctx: FExitContext) -> i32 {
    let sock = |_| Sock(Typed(ctx.arg(AUTOBIND_SOCK)));
    udp::autobind_returned(ctx.arg(AUTOBIND_RETURN), sock);
    0
}

#[fentry]
fn fentry_udp_lib_get_port(ctx: FEntryContext) -> i32 {
    udp::search_entered(Sock(Typed(ctx.arg(SEARCH_SOCK))), ctx.arg(SEARCH_PORT));
    0
}

#[fexit]
fn fexit_udp_lib_get_port(ctx: FExitContext) -> i32 {
    let sock = |_| Sock(Typed(ctx.arg(SEARCH_SOCK)));
    udp::search_returned(ctx.arg(SEARCH_RETURN), sock);
    0
}
