//! The filters of a run, as a set of bits. The set is a constant to the programs, so that a filter that the run does
//! not have costs nothing.

/// The filters of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterBits(pub u32);

impl FilterBits {
    /// Only processes in the map `PIDS`.
    pub const PIDS: Self = Self(1);
    /// Children of the processes in `PIDS` too: they are added to the map.
    pub const FOLLOW: Self = Self(1 << 1);
    /// Only users in the map `UIDS`.
    pub const UIDS: Self = Self(1 << 2);
    /// Only threads with a name in the map `COMMS`.
    pub const COMMS: Self = Self(1 << 3);
    /// Only network namespaces in the map `NETNS`.
    pub const NETNS: Self = Self(1 << 4);
    /// Only destination ports whose bit is set in `DPORTS`.
    pub const DPORTS: Self = Self(1 << 5);
    /// Only destination addresses within a prefix in `DADDRS`.
    pub const DADDRS: Self = Self(1 << 6);
    /// Only threads in or below a cgroup in `CGROUPS`.
    pub const CGROUPS: Self = Self(1 << 7);
    /// Only IPv4 destinations, v4-mapped ones included.
    pub const V4: Self = Self(1 << 8);
    /// Only IPv6 destinations.
    pub const V6: Self = Self(1 << 9);
    /// Only calls that fail.
    pub const FAILED: Self = Self(1 << 10);

    /// Returns true if any bit of `other` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets every bit of `other` if `condition` is true.
    pub const fn set_if(&mut self, condition: bool, other: Self) {
        if condition {
            self.0 |= other.0;
        }
    }
}

/// Maximum number of cgroups in a filter: the programs check each of them.
pub const MOST_CGROUPS: usize = 16;

/// Number of places for cgroups: those of two filters, because a service replaces one by the other while it runs.
pub const CGROUP_PLACES: usize = 2 * MOST_CGROUPS;
