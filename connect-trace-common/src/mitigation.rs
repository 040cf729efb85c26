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

/// Value of the map `ROUTES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RouteState {
    /// The source address that the kernel was last seen to choose, in the same form as the destination.
    pub source: [u32; 4],
    /// 1 if the mitigation acts on this route. Written by the daemon.
    pub acts: u64,
    /// Ports that the programs tested.
    pub tested: u64,
    /// Tested ports that were taken.
    pub taken: u64,
}

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
    /// Left alone: the socket had a port.
    pub bound: u64,
    /// Left alone: the socket had a range of its own.
    pub own_range: u64,
    /// Left to the kernel: the destination is not in `ROUTES`.
    pub no_route: u64,
    /// Left to the kernel: the mitigation does not act on the route.
    pub idle: u64,
    /// Left to the kernel: the thread or cgroup does not belong to the share.
    pub other_share: u64,
    /// The mitigation chose the port, address or range.
    pub applied: u64,
    /// Left to the kernel after [`MOST_TRIES`] ports that were taken or reserved.
    pub exhausted: u64,
    /// Left to the kernel, because it refused a step.
    pub refused: u64,
    /// Ports that were tested by a look-up.
    pub tested: u64,
    /// Tested ports that were taken.
    pub taken: u64,
    /// Ports that were skipped because they are reserved (`net.ipv4.ip_local_reserved_ports`).
    pub reserved: u64,
    /// The last errno with which the kernel refused a step; 0 if it never did.
    pub last_errno: u64,
    /// Time in the program of the calls that are `applied`, `exhausted` or `refused`, in nanoseconds.
    pub acting_ns: u64,
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
        differences!(
            calls,
            not_tcp,
            bound,
            own_range,
            no_route,
            idle,
            other_share,
            applied,
            exhausted,
            refused,
            tested,
            taken,
            reserved,
            acting_ns
        )
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
    }
}
