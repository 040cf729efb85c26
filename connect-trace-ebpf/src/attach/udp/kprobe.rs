//! Entry points for kprobe and kretprobe. The call in flight keeps the socket, which a kretprobe does not see.

use aya_ebpf::{
    macros::{kprobe, kretprobe},
    programs::{ProbeContext, RetProbeContext},
};

use crate::{
    address::Address,
    attach::registers::{self, argument},
    cast,
    sock::{Cast, Sock, Socket, Untyped},
    udp,
};

/// Indexes of the arguments, as in `fentry.rs`.
const CONNECT_SOCKET: usize = 0;
const CONNECT_ADDRESS: usize = 1;
const CONNECT_LENGTH: usize = 2;
const AUTOBIND_SOCK: usize = 0;
const SEARCH_SOCK: usize = 0;
const SEARCH_PORT: usize = 1;

/// Calls a function with the socket at an address, as a type that is read by plain loads if the kernel can cast an
/// address to a type.
macro_rules! with_sock {
    ($address:expr, |$sock:ident| $call:expr) => {
        if cast::is_possible() {
            let $sock = Sock(Cast::sock($address));
            $call
        } else {
            let $sock = Sock(Untyped($address));
            $call
        }
    };
}

/// Calls a function with the return value, and with the function that makes a socket of its address.
macro_rules! returned {
    ($call:path, $ctx:ident) => {
        if cast::is_possible() {
            $call(registers::returned(&$ctx), |sock| {
                Sock(Cast::sock(sock as *const u8))
            });
        } else {
            $call(registers::returned(&$ctx), |sock| {
                Sock(Untyped(sock as *const u8))
            });
        }
    };
}

#[kprobe]
fn kprobe_inet_dgram_connect(ctx: ProbeContext) -> u32 {
    let socket = Socket(Untyped(argument(&ctx, CONNECT_SOCKET)));
    let address = Address(argument(&ctx, CONNECT_ADDRESS));
    let length = argument(&ctx, CONNECT_LENGTH);
    let Untyped(sock) = socket.sock().0;
    with_sock!(sock, |sock| udp::connect_entered(sock, address, length));
    0
}

#[kretprobe]
fn kretprobe_inet_dgram_connect(ctx: RetProbeContext) -> u32 {
    returned!(udp::connect_returned, ctx);
    0
}

#[kprobe]
fn kprobe_inet_autobind(ctx: ProbeContext) -> u32 {
    let sock = argument(&ctx, AUTOBIND_SOCK);
    with_sock!(sock, |sock| udp::autobind_entered(sock));
    0
}

#[kretprobe]
fn kretprobe_inet_autobind(ctx: RetProbeContext) -> u32 {
    returned!(udp::autobind_returned, ctx);
    0
}

#[kprobe]
fn kprobe_udp_lib_get_port(ctx: ProbeContext) -> u32 {
    let sock = argument(&ctx, SEARCH_SOCK);
    let port = argument(&ctx, SEARCH_PORT);
    with_sock!(sock, |sock| udp::search_entered(sock, port));
    0
}

#[kretprobe]
fn kretprobe_udp_lib_get_port(ctx: RetProbeContext) -> u32 {
    returned!(udp::search_returned, ctx);
    0
}
