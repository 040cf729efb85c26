//! Where a port search starts. The kernel takes it from a slot of `table_perturb`, which it moves on when
//! it has found a port: two looks at the slot tell the daemon how far the search went, at no cost for
//! each port, and whether another search came between.

use aya_ebpf::helpers::bpf_probe_read_kernel;
use connect_trace_common::{Flags, InFlight};

use crate::layout::TABLE_PERTURB;

/// `table_perturb` has as many slots as there are indices, `INET_TABLE_PERTURB_SIZE`. On a kernel that was
/// built with fewer the slot is not the one that moves, which the daemon notices.
const INDEX: u64 = 0xffff;

/// What `table_perturb` points to, 0 until it was read: it is set when the kernel boots, and never again.
static mut TABLE: u64 = 0;

/// At the entry of `__inet_hash_connect`, with its argument `port_offset`.
#[inline(always)]
pub fn entered(call: &mut InFlight, port_offset: u64) {
    if let Some(slot) = slot(port_offset) {
        call.port_offset = port_offset;
        call.record.scan_start = slot;
        call.record.flags.set(Flags::SCAN_STARTED);
    }
}

/// At the return of `__inet_hash_connect`.
#[inline(always)]
pub fn returned(call: &mut InFlight) {
    let record = &mut call.record;
    if !record.flags.has(Flags::SCAN_STARTED) {
        return;
    }
    if let Some(slot) = slot(call.port_offset) {
        let advance = slot.wrapping_sub(record.scan_start);
        record.scan_advance = if advance >> 16 == 0 {
            advance as u16
        } else {
            0
        };
    }
    let upper_half = (call.port_offset >> 32) as u32;
    record.scan_start = record.scan_start.wrapping_add(upper_half);
}

/// The slot that a `port_offset` belongs to.
#[inline(always)]
fn slot(port_offset: u64) -> Option<u32> {
    let symbol = TABLE_PERTURB.load();
    if symbol == 0 {
        return None;
    }
    // SAFETY: an aligned word of our own; who writes it writes the same.
    let mut table = unsafe { (&raw const TABLE).read_volatile() };
    if table == 0 {
        // SAFETY: the helper checks the address.
        table = unsafe { bpf_probe_read_kernel(symbol as *const u64) }.ok()?;
        // SAFETY: as above.
        unsafe { (&raw mut TABLE).write_volatile(table) };
    }
    let slot = table.wrapping_add((port_offset & INDEX) * size_of::<u32>() as u64);
    // SAFETY: the helper checks the address; any word is a valid u32.
    unsafe { bpf_probe_read_kernel(slot as *const u32) }.ok()
}
