//! The parts of one connect(), measured only if the daemon asks for them.

use bytemuck::{Pod, Zeroable};

use crate::ConnectRecord;

/// Times during which a thread did not work: whole nanoseconds, which do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Waits {
    /// Off the CPU although it could run: preempted, or yielded in `__cond_resched`.
    pub preempted_ns: u64,
    /// Off the CPU until something happened.
    pub blocked_ns: u64,
    /// Waiting for any other lock.
    pub other_lock_ns: u64,
}

/// The parts of one connect().
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Phases {
    /// Time from the entry of `tcp_v4_connect` or `tcp_v6_connect` to the entry of `__inet_hash_connect`; 0 if that
    /// was not entered.
    pub before_search_ns: u64,
    /// Waits within `__inet_hash_connect`.
    pub in_search: Waits,
    /// Waits before and after it.
    pub elsewhere: Waits,
    /// Waits in the search for locks of `inet_hashinfo.bhash`.
    pub bhash_ns: u64,
    /// Waits in the search for locks of `inet_hashinfo.bhash2`.
    pub bhash2_ns: u64,
    /// Waits in the search for locks of `inet_hashinfo.ehash_locks`.
    pub ehash_ns: u64,
}

/// A record with the parts of its connect(), as it is in the ring buffer.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PhasedRecord {
    /// The record.
    pub record: ConnectRecord,
    /// The parts.
    pub phases: Phases,
}

/// The parts of a connect() that is in flight.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PhasesInFlight {
    /// The parts so far.
    pub phases: Phases,
    /// Time at which the thread left the CPU; 0 while it is on one.
    pub switched_out_ns: u64,
    /// 1 if the thread could have run when it left the CPU.
    pub was_runnable: u64,
    /// Address of the lock that the thread waits for; 0 while it waits for none.
    pub lock: u64,
    /// Time at which that wait began.
    pub lock_since_ns: u64,
    /// The `struct inet_timewait_death_row *` of the search.
    pub death_row: u64,
    /// The present part: one of the constants below.
    pub part: u64,
}

impl PhasesInFlight {
    /// No part: a program is about to read the clock, so that a wait would belong to one part or to the next.
    pub const BETWEEN: u64 = 0;
    /// Before or after the port search.
    pub const ELSEWHERE: u64 = 1;
    /// In the port search.
    pub const IN_SEARCH: u64 = 2;
}
