//! The data of a mitigation: programs at connect() of a cgroup that choose the source, by the routes that the daemon
//! names, and count each decision.

use bytemuck::{Pod, Zeroable};

/// Key of the map `ROUTES`: destination of connections in a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct RouteKey {
    /// Inode number of the network namespace, `net.ns.inum`.
    pub netns: u32,
    /// Address family of the addresses: 2 is `AF_INET`, for a v4-mapped destination too; 10 is `AF_INET6`.
    pub family: u16,
    /// Destination port, in host order.
    pub destination_port: u16,
    /// Destination address in network order: all bytes for IPv6, the first four for IPv4.
    pub destination: [u32; 4],
}

/// Value of the map `ROUTES`, written by the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RouteState {
    /// The source address that the kernel was last seen to choose, in the same form as the destination.
    pub source: [u32; 4],
    /// 1 if the mitigation acts on this route.
    pub acts: u64,
}

/// Value of the map `ROUTE_COUNTS`, which has the keys of `ROUTES`: a map of its own, so that the daemon can change a
/// route without losing counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RouteCounts {
    /// Ports that the programs tested.
    pub tested: u64,
    /// Tested ports that were taken.
    pub taken: u64,
}

/// Key of the map `CLAIMS`: a port for a route. The value is the time at which a call was given it, in nanoseconds of
/// `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Claim {
    /// The route.
    pub route: RouteKey,
    /// The port, in host order.
    pub port: u32,
}

/// Maximum number of claims; the kernel drops the oldest.
pub const MOST_CLAIMS: u32 = 16_384;

/// Time for which a port is one call's alone: longer than a call takes from its test of the port until the kernel knows
/// its connection, after which every test finds the port taken. A thread can be preempted meanwhile, or use up the CPU
/// quota of its cgroup, whose period is 100 ms by default.
pub const CLAIM_NS: u64 = 200_000_000;

/// Maximum number of routes.
pub const MOST_ROUTES: u32 = 4_096;

/// Method of a mitigation, in [`crate::Params::mitigation`].
pub mod method {
    /// Chooses random ports and binds the first free one.
    pub const SELECT_TEST_REPEAT: u64 = 1;
    /// Binds the addresses of the maps `SOURCES4` and `SOURCES6` in turn, without a port.
    pub const ADDRESSES: u64 = 2;
    /// Sets `IP_LOCAL_PORT_RANGE` to the full range.
    pub const FULL_RANGE: u64 = 3;
}

/// Largest number of ports that are tested for one connection.
pub const MOST_TRIES: u32 = 12;

/// Largest number of source addresses of each family.
pub const MOST_SOURCES: usize = 64;

/// Numbers of source addresses, in [`crate::Params::mitigation_sources`]. In the maps, loopback addresses come after the
/// others: a loopback address cannot reach another host, nor the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// IPv4 addresses that are not loopback addresses.
    pub v4: u8,
    /// IPv4 loopback addresses.
    pub v4_loopback: u8,
    /// IPv6 addresses that are not loopback addresses.
    pub v6: u8,
    /// IPv6 loopback addresses.
    pub v6_loopback: u8,
}

impl Sources {
    /// Returns the numbers in one word.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        u32::from_le_bytes([self.v4, self.v4_loopback, self.v6, self.v6_loopback]) as u64
    }

    /// Returns the place of the first address and the number of addresses in a map, for a destination. By shifts, so
    /// that the verifier knows the numbers.
    #[inline(always)]
    #[must_use]
    pub const fn of(word: u64, v4: bool, loopback: bool) -> (u32, u32) {
        let word = if v4 { word } else { word >> 16 };
        let others = word as u32 & 0xff;
        if loopback {
            (others, (word >> 8) as u32 & 0xff)
        } else {
            (0, others)
        }
    }
}

/// Share of the threads or cgroups that belong to a mitigation, in parts of this number.
pub const WHOLE: u32 = 10_000;

/// Returns true if a thread or cgroup belongs to the share of a mitigation, from 0 to [`WHOLE`].
#[inline(always)]
#[must_use]
pub const fn is_in_share(id: u64, share: u32) -> bool {
    // The finalizer of MurmurHash3, so that neighbouring ids go either way.
    let mut hash = id;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    hash % (WHOLE as u64) < share as u64
}

/// Decisions since the programs were attached.
///
/// calls = bound + own_range + no_route + idle + other_share + applied + exhausted + refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MitigationCounters {
    /// connect() calls of TCP sockets in the cgroup, before they began.
    pub calls: u64,
    /// connect() calls of other protocols, which are left alone; not part of `calls`.
    pub not_tcp: u64,
    /// Left alone: the socket had a port, or was bound to a device, or to an address where addresses are chosen.
    pub bound: u64,
    /// Left alone: the socket had a range of its own.
    pub own_range: u64,
    /// Left to the kernel: the destination is not in `ROUTES`.
    pub no_route: u64,
    /// Left to the kernel: the mitigation does not act on the route, or none of its addresses fits the destination.
    pub idle: u64,
    /// Left to the kernel: the thread or cgroup does not belong to the share.
    pub other_share: u64,
    /// The mitigation chose the port, address or range.
    pub applied: u64,
    /// The part of `applied` whose port was in TIME_WAIT, because no tested port was free.
    pub reused: u64,
    /// Left to the kernel after [`MOST_TRIES`] ports that were taken, busy or reserved.
    pub exhausted: u64,
    /// Left to the kernel, because it refused a step.
    pub refused: u64,
    /// Ports that were tested by a look-up.
    pub tested: u64,
    /// Tested ports that were taken.
    pub taken: u64,
    /// Tested ports that were free for this destination, but belong to another socket: the kernel refused to bind them
    /// (`EADDRINUSE`), because that socket is without `SO_REUSEADDR`; or another call was given them just now.
    pub busy: u64,
    /// Ports that were skipped because they are reserved (`net.ipv4.ip_local_reserved_ports`).
    pub reserved: u64,
    /// The last errno with which the kernel refused a step on one of the CPUs; 0 if it never did.
    pub last_errno: u64,
    /// Time in the program of the calls that are `applied`, `exhausted` or `refused`, in nanoseconds.
    pub acting_ns: u64,
}

/// Calls a macro with all fields of [`MitigationCounters`] that are counts.
macro_rules! of_counts {
    ($call:ident) => {
        $call!(
            calls,
            not_tcp,
            bound,
            own_range,
            no_route,
            idle,
            other_share,
            applied,
            reused,
            exhausted,
            refused,
            tested,
            taken,
            busy,
            reserved,
            acting_ns
        )
    };
}

impl MitigationCounters {
    /// Returns the sums of decisions, which is [`calls`](Self::calls) unless a decision is missing.
    #[must_use]
    pub const fn decided(&self) -> u64 {
        self.bound + self.own_range + self.no_route + self.idle + self.other_share + self.acted()
    }

    /// Returns the number of calls for which the mitigation acted.
    #[must_use]
    pub const fn acted(&self) -> u64 {
        self.applied + self.exhausted + self.refused
    }

    /// Returns what was counted since an earlier reading.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        macro_rules! differences {
            ($($field:ident),*) => {
                Self {
                    $($field: self.$field.saturating_sub(earlier.$field),)*
                    last_errno: self.last_errno,
                }
            };
        }
        of_counts!(differences)
    }

    /// Adds the counters of another CPU.
    pub fn add(&mut self, more: &Self) {
        macro_rules! sums {
            ($($field:ident),*) => {{ $(self.$field += more.$field;)* }};
        }
        of_counts!(sums);
        if more.last_errno != 0 {
            self.last_errno = more.last_errno;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_its_part_of_the_ids() {
        for share in [0, 2_500, 5_000, WHOLE] {
            let members = (1_000..101_000)
                .filter(|&id| is_in_share(id, share))
                .count() as i64;
            let expected = i64::from(share) * 10;
            assert!((members - expected).abs() <= 1_000, "{share}: {members}");
        }
        assert!((0..1_000).all(|id| is_in_share(id, WHOLE) && !is_in_share(id, 0)));
    }

    #[test]
    fn every_call_is_decided_once() {
        let counters = MitigationCounters {
            calls: 36,
            bound: 1,
            own_range: 2,
            no_route: 3,
            idle: 4,
            other_share: 5,
            applied: 6,
            exhausted: 7,
            refused: 8,
            ..MitigationCounters::default()
        };
        assert_eq!(counters.decided(), counters.calls);
        let none = MitigationCounters::default();
        assert_eq!(counters.since(&counters), none);
        assert_eq!(counters.since(&none), counters);
        let mut twice = counters;
        twice.add(&counters);
        assert_eq!(twice.since(&counters), counters);
    }

    #[test]
    fn loopback_addresses_serve_loopback_destinations_only() {
        let word = Sources {
            v4: 64,
            v4_loopback: 1,
            v6: 2,
            v6_loopback: 3,
        }
        .to_word();
        assert_eq!(Sources::of(word, true, false), (0, 64));
        assert_eq!(Sources::of(word, true, true), (64, 1));
        assert_eq!(Sources::of(word, false, false), (0, 2));
        assert_eq!(Sources::of(word, false, true), (2, 3));
    }
}
