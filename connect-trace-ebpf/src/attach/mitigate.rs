//! Entry points for a mitigation: the hooks of a cgroup before its connect() calls, in every attach mode. Only a
//! mitigation loads them. They return 1, which lets the call go on, whatever they did.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    mitigate,
    sock::{AF_INET, AF_INET6},
};

#[cgroup_sock_addr(connect4)]
fn mitigate_connect4(ctx: SockAddrContext) -> i32 {
    mitigate::connects(ctx.sock_addr, AF_INET);
    1
}

#[cgroup_sock_addr(connect6)]
fn mitigate_connect6(ctx: SockAddrContext) -> i32 {
    mitigate::connects(ctx.sock_addr, AF_INET6);
    1
}
