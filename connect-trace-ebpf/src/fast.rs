//! Calls below `--min-latency`, which get no record: they are summed up here, so that the counts and the buckets of a
//! report contain all connect() calls.

use connect_trace_common::{ConnectRecord, FastGroup, Flags};

use crate::shared::{add_time, per_cpu};

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
    // SAFETY: within the variable.
    let (connect, search) = unsafe {
        let groups = (&raw mut (*per_cpu()).fast).cast::<FastGroup>();
        let group = groups.add(group as usize);
        (&raw mut (*group).connect, &raw mut (*group).search)
    };
    add_time(connect, record.connect_ns);
    if record.flags.has(Flags::SEARCH_TIMED) {
        add_time(search, record.search_ns);
    }
}
