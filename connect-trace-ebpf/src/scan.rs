//! Where a port search starts. The kernel takes it from a slot of `table_perturb`, which it moves on when
//! it has found a port: two looks at the slot tell the daemon how far the search went, at no cost for
//! each port, and whether another search came between.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use connect_trace_common::Look;

use crate::{cast, params::param, shared::add};

/// `table_perturb` has as many slots as there are indices, `INET_TABLE_PERTURB_SIZE`. On a kernel that was
/// built with fewer the slot is not the one that moves, which the daemon notices.
const INDEX: u64 = 0xffff;

/// The number of counts of moves, a power of two.
const COUNTS: usize = 4_096;

/// For each slot the number of searches that were seen to return with it moved: see [`Look::moves`]. Slots whose
/// addresses have the same last bits share a count.
#[unsafe(link_section = ".bss.moves")]
static mut MOVES: [u64; COUNTS] = [0; COUNTS];

/// What `table_perturb` points to, 0 until it was read: it is set when the kernel boots, and never again.
static mut TABLE: u64 = 0;

/// The address of the slot that a `port_offset` belongs to; `None` where `table_perturb` is not known.
#[inline(always)]
pub fn slot(port_offset: u64) -> Option<u64> {
    // SAFETY: an aligned word of our own; who writes it writes the same.
    let mut table = unsafe { (&raw const TABLE).read_volatile() };
    if table == 0 {
        let symbol = param!(table_perturb);
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

/// Looks at a slot at the entry of a search: at the moves first, so that one that is not in the value is not in
/// them either.
#[inline(always)]
pub fn entered(slot: u64) -> Option<Look> {
    let moves = moves(slot);
    // SAFETY: an aligned word of our own; all who write it add to it.
    let moves = unsafe { moves.read_volatile() };
    let value = read(slot)?.into();
    Some(Look { value, moves })
}

/// Looks at a slot at the return of a search: by how much it moved the slot, see [`Look::advance`].
#[inline(always)]
pub fn returned(slot: u64, before: Look) -> u16 {
    let Some(value) = read(slot) else {
        return 0;
    };
    let value = value.into();
    if value == before.value {
        return 0;
    }
    let moves = moves(slot);
    let after = Look {
        value,
        // SAFETY: as above.
        moves: unsafe { moves.read_volatile() },
    };
    add(moves, 1);
    before.advance(after)
}

/// The count of a slot's moves.
#[inline(always)]
fn moves(slot: u64) -> *mut u64 {
    /// The bits of an address that make an offset.
    const OFFSET: u64 = ((COUNTS - 1) * size_of::<u64>()) as u64;
    // SAFETY: within the variable, and aligned.
    unsafe { (&raw mut MOVES).byte_add((slot & OFFSET) as usize).cast() }
}

/// What a slot holds.
#[inline(always)]
fn read(slot: u64) -> Option<u32> {
    if cast::is_possible() {
        return Some(cast::word(slot));
    }
    // SAFETY: the helper checks the address; any word is a valid u32.
    unsafe { bpf_probe_read_kernel(slot as *const u32) }.ok()
}

/// Where a search starts, before the remainder by the number of ports.
#[inline(always)]
pub fn start(before: Look, port_offset: u64) -> u32 {
    (before.value as u32).wrapping_add((port_offset >> 32) as u32)
}
