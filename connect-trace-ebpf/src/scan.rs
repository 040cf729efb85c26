//! Where a port search starts. The kernel takes it from a slot of `table_perturb`, which it moves on when
//! it has found a port: two looks at the slot tell the daemon how far the search went, at no cost for
//! each port, and whether another search came between.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::{cast, layout::TABLE_PERTURB};

/// `table_perturb` has as many slots as there are indices, `INET_TABLE_PERTURB_SIZE`. On a kernel that was
/// built with fewer the slot is not the one that moves, which the daemon notices.
const INDEX: u64 = 0xffff;

/// What `table_perturb` points to, 0 until it was read: it is set when the kernel boots, and never again.
static mut TABLE: u64 = 0;

/// The address of the slot that a `port_offset` belongs to; `None` where `table_perturb` is not known.
#[inline(always)]
pub fn slot(port_offset: u64) -> Option<u64> {
    // SAFETY: an aligned word of our own; who writes it writes the same.
    let mut table = unsafe { (&raw const TABLE).read_volatile() };
    if table == 0 {
        let symbol = TABLE_PERTURB.load();
        if symbol == 0 {
            return None;
        }
        // SAFETY: the helper checks the address.
        table = unsafe { bpf_probe_read_kernel(symbol as *const u64) }.ok()?;
        // SAFETY: as above.
        unsafe { (&raw mut TABLE).write_volatile(table) };
    }
    Some(table.wrapping_add((port_offset & INDEX) * size_of::<u32>() as u64))
}

/// What a slot holds.
#[inline(always)]
pub fn read(slot: u64) -> Option<u32> {
    if cast::is_possible() {
        return Some(cast::word(slot));
    }
    // SAFETY: the helper checks the address; any word is a valid u32.
    unsafe { bpf_probe_read_kernel(slot as *const u32) }.ok()
}

/// Where a search starts, before the remainder by the number of ports.
#[inline(always)]
pub fn start(slot: u32, port_offset: u64) -> u32 {
    slot.wrapping_add((port_offset >> 32) as u32)
}

/// By how much the slot was moved since; 0 where it was not, or by more than a search does.
#[inline(always)]
pub fn advance(slot: u64, before: u64) -> u16 {
    // In words of 64 bits, which take no instructions to cut: what goes beyond 32 is more than a search does.
    let advance = read(slot).map_or(0, |now| u64::from(now).wrapping_sub(before));
    if advance >> 16 == 0 {
        advance as u16
    } else {
        0
    }
}
