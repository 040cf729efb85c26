//! Which filters a run has, as a set of bits: a constant to the programs, so that a filter that is not
//! there costs nothing.

/// The filters of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterBits(pub u32);

impl FilterBits {
    /// Only processes of the map `PIDS`.
    pub const PIDS: Self = Self(1);
    /// Children of the processes in `PIDS` join them.
    pub const FOLLOW: Self = Self(1 << 1);
    /// Only users of the map `UIDS`.
    pub const UIDS: Self = Self(1 << 2);
    /// Only threads with a name of the map `COMMS`.
    pub const COMMS: Self = Self(1 << 3);
    /// Only network namespaces of the map `NETNS`.
    pub const NETNS: Self = Self(1 << 4);
    /// Only destination ports whose bit is set in `DPORTS`.
    pub const DPORTS: Self = Self(1 << 5);
    /// Only destination addresses within a prefix of `DADDRS`.
    pub const DADDRS: Self = Self(1 << 6);
    /// Only threads in or below a cgroup of `CGROUPS`.
    pub const CGROUPS: Self = Self(1 << 7);
    /// Only IPv4 destinations, v4-mapped ones included.
    pub const V4: Self = Self(1 << 8);
    /// Only IPv6 destinations.
    pub const V6: Self = Self(1 << 9);
    /// Only calls that fail.
    pub const FAILED: Self = Self(1 << 10);

    /// Whether any bit of `other` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Sets every bit of `other` where `condition` holds.
    pub const fn set_if(&mut self, condition: bool, other: Self) {
        if condition {
            self.0 |= other.0;
        }
    }
}

/// Most cgroups that can be asked for: the programs look at each of them.
pub const MOST_CGROUPS: usize = 16;
