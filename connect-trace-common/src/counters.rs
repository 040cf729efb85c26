//! The counters that account for every call, and the one word that the daemon writes.

use bytemuck::{Pod, Zeroable};

use crate::buckets::BUCKETS;

/// Counted in the kernel, one copy per CPU, since the probes were attached.
///
/// entered = reported + ring_full + in_flight_full + return_missed + still in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Counters {
    /// Calls of `tcp_v4_connect` and `tcp_v6_connect` that passed the filters; a v4-mapped one once.
    pub entered: u64,
    /// Records written to the ring buffer.
    pub reported: u64,
    /// Records that found the ring buffer full.
    pub ring_full: u64,
    /// Calls that found the map of calls in flight full.
    pub in_flight_full: u64,
    /// Calls whose return was never seen: their thread entered connect() again, or ended.
    pub return_missed: u64,
    /// Calls that the filters left out; not part of `entered`.
    pub filtered: u64,
    /// Returns of `__inet_hash_connect` that were not seen although their connect() was reported.
    pub search_return_missed: u64,
}

/// Calls of `__inet_check_established` or `__inet6_check_established` while they were watched, one
/// copy per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CheckEstablished {
    /// Calls seen.
    pub calls: u64,
    /// Calls whose entry and return were both seen on the same CPU.
    pub timed: u64,
    /// Sum of the times of the timed calls.
    pub total_ns: u64,
    /// Longest timed call.
    pub max_ns: u64,
    /// Timed calls by [`crate::power_of_ten`].
    pub buckets: [u64; BUCKETS],
}

/// What the daemon tells the programs while they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Control {
    /// Counts the changes of watching `__inet{,6}_check_established`: odd while it is watched. A
    /// connect() that sees it odd, or sees two values, has overlapped a burst.
    pub watch: u32,
}
