//! Casts of an address to a kernel type: the memory there is then read by plain loads instead of one helper call for
//! each read.

use crate::params::param;

unsafe extern "C" {
    /// Returns the same address as a pointer to a type of the kernel's BTF; `type_id` must be a constant. The verifier
    /// replaces the call of this kernel function (6.2) with one instruction.
    fn bpf_rdonly_cast(address: *const u8, type_id: u32) -> *const u8;
}

/// Returns true if the running kernel has `bpf_rdonly_cast`.
#[inline(always)]
pub fn is_possible() -> bool {
    param!(casts) != 0
}

/// Returns the address as a pointer to the type `type_id`, which must be a constant.
#[inline(always)]
pub fn cast(address: *const u8, type_id: u64) -> *const u8 {
    // SAFETY: any address is valid: a load that faults reads zeros.
    unsafe { bpf_rdonly_cast(address, type_id as u32) }
}

/// Reads the 32-bit word at an address.
#[inline(always)]
pub fn word(address: u64) -> u32 {
    let typed = cast(address as *const u8, param!(word));
    // SAFETY: the structure begins with a 32-bit word.
    unsafe { typed.cast::<u32>().read_volatile() }
}
