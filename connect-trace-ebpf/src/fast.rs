//! Calls below `--min-latency`, which get no record: they are summed up here, so that the counts and the buckets of a
//! report contain all connect() calls.

use connect_trace_common::{ConnectRecord, FastKind, Flags};

use crate::{
    params::{param, setting},
    shared::{add_time, fast_group},
    sock::{AF_INET6, Memory, Sock},
};

/// The fields of a socket by which fast calls are told apart, as in [`ConnectRecord`].
pub struct Fields {
    netns_range: [u16; 2],
    socket_range: [u16; 2],
    user_locks: u8,
}

impl Fields {
    /// Returns the fields of a socket.
    #[inline(always)]
    pub fn of_sock<M: Memory>(sock: Sock<M>) -> Self {
        Self {
            netns_range: sock.net().port_range(),
            socket_range: sock.local_port_range(),
            user_locks: sock.user_locks(),
        }
    }

    /// Returns the fields that a record has.
    #[inline(always)]
    pub fn of_record(record: &ConnectRecord) -> Self {
        Self {
            netns_range: record.netns_range,
            socket_range: record.socket_range,
            user_locks: record.user_locks,
        }
    }
}

/// Returns true if a call that has returned gets no record because it is too fast for one.
#[inline(always)]
pub fn is_fast(record: &ConnectRecord) -> bool {
    record.connect_ns < setting!(min_latency_ns) && (record.ret == 0 || param!(service) == 0)
}

/// Adds a call that has returned.
#[inline(always)]
pub fn add_call(record: &ConnectRecord, fields: Fields) {
    let group = fast_group(kind(record, fields));
    // SAFETY: within the variable.
    let (connect, search) = unsafe { (&raw mut (*group).connect, &raw mut (*group).search) };
    add_time(connect, record.connect_ns);
    if record.flags.has(Flags::SEARCH_TIMED) {
        add_time(search, record.search_ns);
    }
}

/// Returns the kind of a call.
#[inline(always)]
fn kind(record: &ConnectRecord, fields: Fields) -> FastKind {
    let is_v6 = record.family == AF_INET6 && !record.flags.has(Flags::MAPPED);
    let v6 = u32::from(is_v6) * FastKind::V6;
    if record.ret != 0 {
        return FastKind(FastKind::FAILED | v6);
    }
    let port = u32::from(record.source_port);
    let [mut low, high] = fields.netns_range;
    let [own_low, own_high] = fields.socket_range;
    let mut kind = v6;
    // `SOCK_BINDADDR_LOCK` is the third of the four bits, and `SOCK_BINDPORT_LOCK` the fourth.
    let mut locks = u32::from(fields.user_locks) >> (param!(user_locks_bit) as u32 & 7) >> 2;
    if record.flags.has(Flags::PORT_BOUND) || port == 0 {
        kind |= FastKind::PORT_BOUND;
        locks >>= 1;
    } else if own_low | own_high != 0 {
        kind |= FastKind::OWN_RANGE;
        if own_low >= low && own_low <= high {
            low = own_low;
        }
    }
    kind |= (locks & 1) * FastKind::LOCKED;
    kind |= (port & 1) * FastKind::ODD;
    kind |= ((port ^ u32::from(low)) & 1) * FastKind::OTHER_PARITY;
    FastKind(kind)
}
