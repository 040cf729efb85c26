//! Giving a type to an address: what is there is read by plain loads then, where a helper would be called for each
//! read.

use aya_ebpf::Global;

use crate::layout::{CASTS, WORD};

unsafe extern "C" {
    /// The same address, as a pointer to a type of the kernel's BTF, which must be a constant. A function of the
    /// kernel's (6.2) that the verifier puts one instruction in place of.
    fn bpf_rdonly_cast(address: *const u8, type_id: u32) -> *const u8;
}

/// Whether the running kernel has it.
#[inline(always)]
pub fn is_possible() -> bool {
    CASTS.load() != 0
}

/// The address as a pointer to a type.
#[inline(always)]
pub fn cast(address: *const u8, to: &Global<u32>) -> *const u8 {
    // SAFETY: any address will do: a load that faults reads zeros.
    unsafe { bpf_rdonly_cast(address, to.load()) }
}

/// The word of 32 bits at an address.
#[inline(always)]
pub fn word(address: u64) -> u32 {
    // SAFETY: the structure begins with such a word.
    unsafe {
        cast(address as *const u8, &WORD)
            .cast::<u32>()
            .read_volatile()
    }
}
