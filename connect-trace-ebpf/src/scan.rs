//! The start and the advance of a port search. The kernel takes the start from a slot of `table_perturb`, and advances
//! the slot when it has found a port. From two looks at the slot the daemon knows how far the search went, at no cost
//! for each port, and whether another search came between.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use connect_trace_common::Look;

use crate::{cast, params::param, shared::add};

/// Mask of an index into `table_perturb`, which has `INET_TABLE_PERTURB_SIZE` slots, one for each index. On a kernel
/// built with fewer slots, the slot found here is not the one that moves; the daemon detects this.
const INDEX: u64 = 0xffff;

/// Number of counts in [`MOVES`], a power of two.
const COUNTS: usize = 4_096;

/// Counts, for each slot, of the searches that were seen to return with the slot moved: see [`Look::moves`]. Slots
/// whose addresses have the same last bits share a count.
#[unsafe(link_section = ".bss.moves")]
static mut MOVES: [u64; COUNTS] = [0; COUNTS];

/// Address that `table_perturb` points to, 0 until it has been read. The kernel sets the pointer once, when it boots.
static mut TABLE: u64 = 0;

/// Returns the address of the slot that a `port_offset` belongs to; `None` if `table_perturb` is not known.
#[inline(always)]
pub fn slot(port_offset: u64) -> Option<u64> {
    // SAFETY: an aligned word of our own; all writers write the same value.
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

/// Looks at a slot at the entry of a search. Reads the count of moves before the value, so that a move that is not in
/// the value is not in the count either.
#[inline(always)]
pub fn entered(slot: u64) -> Option<Look> {
    let moves = moves(slot);
    // SAFETY: an aligned word of our own; all writers add to it atomically.
    let moves = unsafe { moves.read_volatile() };
    let value = read(slot)?.into();
    Some(Look { value, moves })
}

/// Looks at a slot at the return of a search; returns by how much the search moved the slot: see [`Look::advance`].
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

/// Returns a pointer to the count of a slot's moves.
#[inline(always)]
fn moves(slot: u64) -> *mut u64 {
    /// Mask of the bits of an address that make the offset in [`MOVES`].
    const OFFSET: u64 = ((COUNTS - 1) * size_of::<u64>()) as u64;
    // SAFETY: within the variable, and aligned.
    unsafe { (&raw mut MOVES).byte_add((slot & OFFSET) as usize).cast() }
}

/// Reads the value of a slot.
#[inline(always)]
fn read(slot: u64) -> Option<u32> {
    if cast::is_possible() {
        return Some(cast::word(slot));
    }
    // SAFETY: the helper checks the address; any word is a valid u32.
    unsafe { bpf_probe_read_kernel(slot as *const u32) }.ok()
}

/// Returns the start of a search, before the kernel takes the remainder by the number of ports.
#[inline(always)]
pub fn start(before: Look, port_offset: u64) -> u32 {
    (before.value as u32).wrapping_add((port_offset >> 32) as u32)
}
