//! The registers of a probed function. Each architecture has them at other places of the kernel's `struct pt_regs`, which
//! the daemon finds in the kernel's types: the programs are the same on all architectures.

use aya_ebpf::{
    EbpfContext,
    programs::{ProbeContext, RetProbeContext},
};
use connect_trace_common::Field;

const ARGUMENTS: [Field; 3] = [
    Field::ProbeArgument0,
    Field::ProbeArgument1,
    Field::ProbeArgument2,
];

/// A value that fits a register.
pub trait Value: Copy {}

impl Value for u16 {}
impl Value for i32 {}
impl Value for u64 {}
impl Value for *const u8 {}

/// Returns the argument at an index, which must be a constant.
#[inline(always)]
pub fn argument<T: Value>(ctx: &ProbeContext, index: usize) -> T {
    read(ctx, ARGUMENTS[index])
}

/// Returns the return value.
#[inline(always)]
pub fn returned<T: Value>(ctx: &RetProbeContext) -> T {
    read(ctx, Field::ProbeReturn)
}

#[inline(always)]
fn read<T: Value>(ctx: &impl EbpfContext, register: Field) -> T {
    let place = ctx.as_ptr().wrapping_byte_add(register.stand_in(0));
    // SAFETY: the daemon replaces the stand-in with the offset of the register, whose lowest bytes come first; the
    // verifier checks that it lies in `struct pt_regs`. The load is volatile, so that the compiler does not merge it with
    // that of another register.
    unsafe { place.cast::<T>().read_volatile() }
}
