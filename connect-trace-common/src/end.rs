//! The record of what became of a connection after its connect(), and the counters that account for every connection
//! that was followed.

use bytemuck::{Pod, Zeroable};

use crate::ConnectRecord;

/// `TCP_ESTABLISHED`, net/tcp_states.h.
pub const ESTABLISHED: u32 = 1;
/// `TCP_SYN_SENT`
pub const SYN_SENT: u32 = 2;
/// `TCP_SYN_RECV`
pub const SYN_RECV: u32 = 3;
/// `TCP_FIN_WAIT2`
pub const FIN_WAIT2: u32 = 5;
/// `TCP_CLOSE`
pub const CLOSE: u32 = 7;
/// `TCP_LAST_ACK`
pub const LAST_ACK: u32 = 9;
/// `TCP_CLOSING`
pub const CLOSING: u32 = 11;

/// A connection that is followed after its connect(), from its establishment to its end. Written into the ring buffer
/// of the ends at both moments.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct EndRecord {
    /// The connect() that began it.
    pub connect: ConnectRecord,
    /// Time at which it was established; 0 if it was not.
    pub established_ns: u64,
    /// Time at which it ended; 0 if it is not the end.
    pub ended_ns: u64,
    /// State of the socket before it ended.
    pub state: u32,
    /// Error of the socket when it ended, `sk_err`: a positive errno or 0.
    pub error: u32,
    /// Number of retransmissions, `tcp_sock.total_retrans`, at the end of the handshake: those of the SYN.
    pub syn_retransmits: u32,
    /// Padding.
    pub unused: u32,
}

/// Connections that were followed, counted in the kernel, by CPU.
///
/// followed = ended + `replaced` + still in the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EndCounters {
    /// Connections that were put into the map.
    pub followed: u64,
    /// Connections that found the map full.
    pub map_full: u64,
    /// Connections whose end was not seen: another one began with the same socket, on either side.
    pub replaced: u64,
    /// Connections in the map that were established.
    pub established: u64,
    /// Records of them that found the ring buffer full.
    pub established_lost: u64,
    /// Connections in the map that ended.
    pub ended: u64,
    /// Records of them that found the ring buffer full.
    pub ended_lost: u64,
    /// Handshakes that ended and were not in the map: their connect() was before the trace, was left out, or found the
    /// map full.
    pub others: u64,
}

impl EndCounters {
    /// Adds the counters of another CPU.
    pub fn add(&mut self, more: &Self) {
        self.followed += more.followed;
        self.map_full += more.map_full;
        self.replaced += more.replaced;
        self.established += more.established;
        self.established_lost += more.established_lost;
        self.ended += more.ended;
        self.ended_lost += more.ended_lost;
        self.others += more.others;
    }

    /// Returns the difference to an earlier reading of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            followed: self.followed.saturating_sub(earlier.followed),
            map_full: self.map_full.saturating_sub(earlier.map_full),
            replaced: self.replaced.saturating_sub(earlier.replaced),
            established: self.established.saturating_sub(earlier.established),
            established_lost: self
                .established_lost
                .saturating_sub(earlier.established_lost),
            ended: self.ended.saturating_sub(earlier.ended),
            ended_lost: self.ended_lost.saturating_sub(earlier.ended_lost),
            others: self.others.saturating_sub(earlier.others),
        }
    }
}
