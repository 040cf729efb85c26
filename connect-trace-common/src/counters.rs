//! The counters that account for every call, what is aggregated in the kernel, and the words that the daemon
//! writes.

use bytemuck::{Pod, Zeroable};

use crate::{
    EndCounters, MitigationCounters,
    buckets::{BUCKETS, power_of_ten},
};

/// How many copies of [`PerCpu`] there are: a CPU has one of its own where the host has no more CPUs.
pub const COPIES: usize = 256;

/// Counted in the kernel, by CPU, since the probes were attached.
///
/// entered = reported + fast + succeeded + unsampled + ring_full + in_flight_full + return_missed + still
/// in flight.
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
    /// Calls that succeeded where only failed ones are wanted.
    pub succeeded: u64,
    /// Calls that were faster than records are wanted of, and are in [`FastGroup`].
    pub fast: u64,
    /// Processes that were forked by traced ones and are not traced: the map of processes was full.
    pub not_followed: u64,
    /// Calls that got no record because records are made of 1 in [`Control::sample_every`].
    pub unsampled: u64,
}

/// Times that are aggregated in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Times {
    /// Number of times. The programs do not count: see [`counted`](Self::counted).
    pub count: u64,
    /// Sum of the times.
    pub total_ns: u64,
    /// Longest time.
    pub max_ns: u64,
    /// Times by [`crate::power_of_ten`].
    pub buckets: [u64; BUCKETS],
}

/// Calls of one [`FastKind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FastGroup {
    /// In `tcp_v4_connect` or `tcp_v6_connect`.
    pub connect: Times,
    /// In `__inet_hash_connect`.
    pub search: Times,
}

/// The properties by which calls below `--min-latency`, which get no record, are summed up: a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastKind(pub u32);

impl FastKind {
    /// The destination is an IPv6 address, not a v4-mapped one.
    pub const V6: u32 = 1;
    /// The source port is odd. This and the next four are of successful calls.
    pub const ODD: u32 = 1 << 1;
    /// The parity of the port is not that of the lowest port of the range.
    pub const OTHER_PARITY: u32 = 1 << 2;
    /// The socket had a port before.
    pub const PORT_BOUND: u32 = 1 << 3;
    /// The socket has a range of its own, `IP_LOCAL_PORT_RANGE`.
    pub const OWN_RANGE: u32 = 1 << 4;
    /// With [`PORT_BOUND`](Self::PORT_BOUND) the port was named (`SOCK_BINDPORT_LOCK`), without it an address was bound
    /// (`SOCK_BINDADDR_LOCK`).
    pub const LOCKED: u32 = 1 << 5;
    /// The call failed: a port that a socket had before is not told apart by the socket's range.
    pub const FAILED: u32 = Self::PORT_BOUND | Self::OWN_RANGE;
    /// Number of kinds, a power of two.
    pub const KINDS: usize = 1 << 6;

    /// Returns true if all of these bits are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// The calls below `--min-latency`, by the number of their [`FastKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct FastSums(pub [FastGroup; FastKind::KINDS]);

impl FastSums {
    /// Returns the groups with their kinds.
    pub fn groups(&self) -> impl Iterator<Item = (FastKind, &FastGroup)> {
        (0..).map(FastKind).zip(&self.0)
    }

    /// Adds the sums of another CPU.
    pub fn add(&mut self, more: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&more.0) {
            sum.add(more);
        }
    }
}

/// Counters and sums of one CPU: whole cache lines, so that CPUs do not share any.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PerCpu {
    /// Counters of calls.
    pub counters: Counters,
    /// `__inet_check_established` and `__inet6_check_established`.
    pub checks: [CheckEstablished; 2],
    /// Call of one of the two functions that has not returned.
    pub running: CheckRunning,
    /// Candidate ports in TIME_WAIT.
    pub time_wait: TimeWaitCounts,
    /// Connections that were followed after their connect().
    pub ends: EndCounters,
    /// Decisions of a mitigation.
    pub mitigation: MitigationCounters,
    /// Padding to whole cache lines, and beyond a size that would be taken for a distance of fields: see [`crate::Field`].
    pub unused: [u64; 9],
}

const _: () = assert!(size_of::<PerCpu>().is_multiple_of(128));

/// A call of `__inet{,6}_check_established` that has not returned.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct CheckRunning {
    /// The calling thread: a return that finds another one here was preempted by it, or has migrated.
    pub thread: u64,
    /// Time of its entry, in nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
}

impl Counters {
    /// Returns the difference to an earlier reading of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            entered: self.entered.saturating_sub(earlier.entered),
            reported: self.reported.saturating_sub(earlier.reported),
            ring_full: self.ring_full.saturating_sub(earlier.ring_full),
            in_flight_full: self.in_flight_full.saturating_sub(earlier.in_flight_full),
            return_missed: self.return_missed.saturating_sub(earlier.return_missed),
            filtered: self.filtered.saturating_sub(earlier.filtered),
            search_return_missed: self
                .search_return_missed
                .saturating_sub(earlier.search_return_missed),
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            fast: self.fast.saturating_sub(earlier.fast),
            not_followed: self.not_followed.saturating_sub(earlier.not_followed),
            unsampled: self.unsampled.saturating_sub(earlier.unsampled),
        }
    }
}

impl Times {
    /// Adds a time, and counts it.
    pub fn record(&mut self, ns: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
        self.buckets[power_of_ten(ns)] += 1;
    }

    /// Returns the same with the number of times, which is that of the buckets.
    #[must_use]
    pub fn counted(self) -> Self {
        Self {
            count: self.buckets.iter().sum(),
            ..self
        }
    }

    /// Adds the sums of another CPU.
    pub fn add(&mut self, more: &Self) {
        self.count += more.count;
        self.total_ns = self.total_ns.saturating_add(more.total_ns);
        self.max_ns = self.max_ns.max(more.max_ns);
        for (bucket, more) in self.buckets.iter_mut().zip(more.buckets) {
            *bucket += more;
        }
    }

    /// Returns the difference to an earlier reading of the same sums. The longest time is that since the start.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        // A sum of one CPU may be read before that of another: the difference is never below zero.
        let mut buckets = self.buckets;
        for (now, before) in buckets.iter_mut().zip(earlier.buckets) {
            *now = now.saturating_sub(before);
        }
        let count = self.count.saturating_sub(earlier.count);
        Self {
            count,
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            max_ns: if count > 0 { self.max_ns } else { 0 },
            buckets,
        }
    }
}

impl CheckEstablished {
    /// Returns the difference to an earlier reading of the same sums.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            times: self.times.since(&earlier.times),
        }
    }
}

impl FastGroup {
    /// Adds the sums of another CPU, or of other calls.
    pub fn add(&mut self, more: &Self) {
        self.connect.add(&more.connect);
        self.search.add(&more.search);
    }

    /// Returns the difference to an earlier reading of the same sums.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            connect: self.connect.since(&earlier.connect),
            search: self.search.since(&earlier.search),
        }
    }
}

/// Calls of `__inet_check_established` or `__inet6_check_established` while they were watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CheckEstablished {
    /// Number of calls seen.
    pub calls: u64,
    /// Times of the calls whose entry and return were both seen on the same CPU.
    pub times: Times,
}

/// Candidate ports in TIME_WAIT that port searches met, by the return value of `tcp_twsk_unique`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TimeWaitCounts {
    /// Candidates that the kernel refused.
    pub refused: u64,
    /// Candidates that the kernel reused.
    pub reused: u64,
    /// Calls of connect() that met any.
    pub calls: u64,
}

impl TimeWaitCounts {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, more: &Self) {
        self.refused += more.refused;
        self.reused += more.reused;
        self.calls += more.calls;
    }

    /// Returns the difference to an earlier reading of the same counts.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            refused: self.refused.saturating_sub(earlier.refused),
            reused: self.reused.saturating_sub(earlier.reused),
            calls: self.calls.saturating_sub(earlier.calls),
        }
    }
}

/// The words that the daemon writes while the programs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Control {
    /// 0 while calls that enter connect() are not looked at: not all programs are attached yet, or they are about to
    /// be detached. Calls that are in flight are not concerned.
    pub open: u64,
    /// Records are made of one call in so many, a power of two; 0 and 1 are all of them. Only looked at by programs that
    /// were loaded with `MAY_SAMPLE`.
    pub sample_every: u64,
    /// The number of times that `__inet{,6}_check_established` were attached, while they are; else 0. Only looked at
    /// by programs that were loaded with `COUNT_CHECKS`.
    pub checks_epoch: u64,
    /// [`crate::Params::filters`] of a service, as this and the next two words are only looked at by programs that were
    /// loaded with [`crate::Params::IN_CONTROL`].
    pub filters: u64,
    /// [`crate::Params::cgroup_count`] of a service.
    pub cgroup_count: u64,
    /// [`crate::Params::min_latency_ns`] of a service.
    pub min_latency_ns: u64,
}
