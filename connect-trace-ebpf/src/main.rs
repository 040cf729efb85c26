//! The eBPF programs of connect-trace.
//!
//! `attach/` has the entry points, one file for each way to attach. They choose how a `struct sock` is read and call
//! `connect` (the life of one connect()), `udp` (the same of UDP) or `check_established` (candidate checks, aggregated in
//! the kernel); `ends` follows connections, `stacks` takes kernel stacks, `phases` measures waits. `params`
//! has the constants that the daemon sets for the running kernel and the options of the run; `maps` and `shared` have
//! the data that the daemon reads and writes.
//!
//! For the host this crate is an empty program, so that the workspace builds, tests and lints on the stable toolchain;
//! `connect-trace/build.rs` builds the crate for the kernel.

#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(asm_experimental_arch, core_intrinsics)
)]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "see shared::add")
)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key or a value is borrowed: a copy would take room on a stack of 512 bytes"
    )
)]

#[cfg(target_arch = "bpf")]
mod address;
#[cfg(target_arch = "bpf")]
mod attach;
#[cfg(target_arch = "bpf")]
mod cast;
#[cfg(target_arch = "bpf")]
mod check_established;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod ends;
#[cfg(target_arch = "bpf")]
mod fast;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod in_flight;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod mitigate;
#[cfg(target_arch = "bpf")]
mod params;
#[cfg(target_arch = "bpf")]
mod phases;
#[cfg(target_arch = "bpf")]
mod process;
#[cfg(target_arch = "bpf")]
mod scan;
#[cfg(target_arch = "bpf")]
mod shared;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod stacks;
#[cfg(target_arch = "bpf")]
mod task;
#[cfg(target_arch = "bpf")]
mod time_wait;
#[cfg(target_arch = "bpf")]
mod udp;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program with a reachable panic.
    loop {}
}

/// License of the programs. The kernel offers most of the helpers that they call to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
