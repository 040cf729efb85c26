//! Giving a type to an address: what is there is read by plain loads then, where a helper would be called for each
//! read.

use crate::params::param;

unsafe extern "C" {
    /// The same address, as a pointer to a type of the kernel's BTF, which must be a constant. A function of the
    /// kernel's (6.2) that the verifier puts one instruction in place of.
    fn bpf_rdonly_cast(address: *const u8, type_id: u32) -> *const u8;
}

/// Whether the running kernel has it.
#[inline(always)]
pub fn is_possible() -> bool {
    param!(casts) != 0
}

/// The address as a pointer to a type, which is a constant.
#[inline(always)]
pub fn cast(address: *const u8, type_id: u64) -> *const u8 {
    // SAFETY: any address will do: a load that faults reads zeros.
    unsafe { bpf_rdonly_cast(address, type_id as u32) }
}

/// The word of 32 bits at an address.
#[inline(always)]
pub fn word(address: u64) -> u32 {
    let typed = cast(address as *const u8, param!(word));
    // SAFETY: the structure begins with such a word.
    unsafe { typed.cast::<u32>().read_volatile() }
}
