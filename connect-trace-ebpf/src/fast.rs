//! Calls below `--min-latency`, which get no record: they are summed up here, so that the counts and the buckets of a
//! report contain all connect() calls.

use connect_trace_common::{ConnectRecord, FastGroup, FastKind, Flags};

use crate::{
    params::{param, setting},
    shared::{add, add_time, per_cpu},
    sock::AF_INET6,
};

/// Returns true if a call that has returned gets no record because it is too fast for one.
#[inline(always)]
pub fn is_fast(record: &ConnectRecord) -> bool {
    record.connect_ns < setting!(min_latency_ns) && (record.ret == 0 || param!(service) == 0)
}

/// Adds a call that has returned.
#[inline(always)]
pub fn add_call(record: &ConnectRecord) {
    let group = if record.ret != 0 {
        FastGroup::FAILED
    } else if record.flags.has(Flags::PORT_BOUND) || record.source_port == 0 {
        FastGroup::BOUND
    } else if record.source_port.is_multiple_of(2) {
        FastGroup::EVEN
    } else {
        FastGroup::ODD
    };
    let is_v6 = record.family == AF_INET6 && !record.flags.has(Flags::MAPPED);
    let index = group + if is_v6 { FastGroup::GROUPS } else { 0 };
    // SAFETY: within the variable.
    let (connect, search) = unsafe {
        let groups = (&raw mut (*per_cpu()).fast).cast::<FastGroup>();
        let group = groups.add(index as usize);
        (&raw mut (*group).connect, &raw mut (*group).search)
    };
    add_time(connect, record.connect_ns);
    if record.flags.has(Flags::SEARCH_TIMED) {
        add_time(search, record.search_ns);
    }
    if param!(service) != 0 {
        add_kind(record, is_v6);
    }
}

/// Counts a successful call by its kind.
#[inline(always)]
fn add_kind(record: &ConnectRecord, is_v6: bool) {
    let mut kind = u32::from(is_v6);
    if record.flags.has(Flags::PORT_BOUND) {
        kind |= FastKind::PORT_BOUND;
    }
    let [mut low, high] = record.netns_range;
    let [own_low, own_high] = record.socket_range;
    if own_low | own_high != 0 {
        kind |= FastKind::OWN_RANGE;
        if own_low >= low && own_low <= high {
            low = own_low;
        }
    }
    kind |= u32::from((record.source_port ^ low) & 1) * FastKind::OTHER_PARITY;
    // The two locks are the upper ones of the four bits.
    let locks = u32::from(record.user_locks) >> (param!(user_locks_bit) as u32 & 7) >> 2 & 3;
    kind |= locks << FastKind::LOCKS;
    // SAFETY: within the variable: the mask is the number of kinds minus one.
    unsafe {
        let kinds = (&raw mut (*per_cpu()).fast_kinds).cast::<u64>();
        add(kinds.add(kind as usize & (FastKind::KINDS - 1)), 1);
    }
}
