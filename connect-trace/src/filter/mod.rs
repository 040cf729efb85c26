//! The filters, resolved on this host. The programs in the kernel apply them before any other work; recordings are
//! filtered here.

pub(crate) mod args;
mod resolve;
mod user;
mod words;

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    time::Duration,
};

pub use self::{
    args::FilterArgs,
    resolve::{filters, filters_of_recording},
    words::filter_words,
};
use crate::connect::{Comm, Connect, Family, PortRange, Protocols};

/// The filters. Different kinds combine with "and", filters of one kind with "or"; a kind without any excludes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// Processes (thread-group ids).
    pub pids: Vec<u32>,
    /// True if the children of `pids` that are forked while tracing belong too.
    pub follow: bool,
    /// Cgroups, including all below them.
    pub cgroups: Vec<Cgroup>,
    /// Real user ids, as the initial user namespace counts.
    pub uids: Vec<u32>,
    /// Inode numbers of the sockets' network namespaces.
    pub netns: Vec<u32>,
    /// Destination ports.
    pub dports: Vec<PortRange>,
    /// Destination addresses.
    pub daddrs: Vec<Cidr>,
    /// Names of threads.
    pub comms: Vec<Comm>,
    /// Protocol of the destination's address.
    pub version: Option<IpVersion>,
    /// Protocols; a trace without them is one of TCP.
    pub protocols: Option<Protocols>,
    /// True to select only calls that failed.
    pub failed: bool,
    /// Shortest time of a call that gets a record; all calls are counted.
    pub min_latency: Option<Duration>,
}

/// The protocol of an address; a v4-mapped address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A cgroup of the version 2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Id of the cgroup: the inode number of its directory.
    pub id: u64,
    /// Directory of the cgroup; empty if only the id is known, from a recording.
    pub folder: PathBuf,
}

impl Cgroup {
    /// Returns true if the directory is still that of this cgroup.
    #[must_use]
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.folder).is_ok_and(|folder| folder.ino() == self.id)
    }
}

/// A network, in IPv6 notation: IPv4 is v4-mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: u128,
    /// Bits of the network, out of 128.
    length: u8,
}

impl Cidr {
    /// Returns the network of an address, with `length` bits in the notation of the address's own family.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Self {
        let length = length + if address.is_ipv4() { 96 } else { 0 };
        Self {
            network: bits(address) & mask(length),
            length,
        }
    }

    /// Returns whether the address lies in the network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        bits(address) & mask(self.length) == self.network
    }

    /// Returns whether the network has addresses of this protocol.
    #[must_use]
    pub fn has(self, version: IpVersion) -> bool {
        let all_v4 = Self::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let within_v4 = self.length >= all_v4.length && self.network & mask(96) == all_v4.network;
        match version {
            IpVersion::V6 => !within_v4,
            IpVersion::V4 => within_v4 || all_v4.network & mask(self.length) == self.network,
        }
    }

    /// Returns the address in network order, with IPv4 v4-mapped, and the number of significant bits.
    #[must_use]
    pub fn prefix(self) -> ([u8; 16], u8) {
        (self.network.to_be_bytes(), self.length)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.network);
        match (address.to_canonical(), self.length) {
            (IpAddr::V4(address), length @ 96..) => write!(formatter, "{address}/{}", length - 96),
            (_, length) => write!(formatter, "{address}/{length}"),
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl Filters {
    /// Returns whether this connect() passes the filters, including `min_latency`. A record does not show that its
    /// cgroup lies below a selected one, or that its process is the child of a selected one: such calls do not pass.
    #[must_use]
    pub fn matches(&self, connect: &Connect) -> bool {
        self.wants(connect) && !self.is_below_minimum(connect)
    }

    /// Returns whether the call took less than `min_latency`: a trace counts such a call without a record.
    #[must_use]
    pub fn is_below_minimum(&self, connect: &Connect) -> bool {
        self.min_latency
            .is_some_and(|least| u128::from(connect.connect_ns) < least.as_nanos())
    }

    /// Returns the same as [`matches`](Self::matches), without the test of `min_latency`.
    #[must_use]
    pub fn wants(&self, connect: &Connect) -> bool {
        let within = |span: &PortRange| {
            connect
                .destination
                .is_some_and(|to| (span.low..=span.high).contains(&to.port()))
        };
        let inside = |network: &Cidr| {
            connect
                .destination
                .is_some_and(|to| network.contains(to.ip()))
        };
        let version = match connect.family {
            Family::V4 | Family::Mapped => IpVersion::V4,
            Family::V6 => IpVersion::V6,
        };
        any(&self.pids, |&pid| pid == connect.pid)
            && any(&self.cgroups, |cgroup| cgroup.id == connect.cgroup_id)
            && any(&self.uids, |&uid| uid == connect.uid)
            && any(&self.netns, |&netns| Some(netns) == connect.netns)
            && any(&self.dports, within)
            && any(&self.daddrs, inside)
            && any(&self.comms, |&comm| comm == connect.comm)
            && self
                .protocols
                .is_none_or(|wanted| wanted.have(connect.kind.protocol))
            && self.version.is_none_or(|wanted| wanted == version)
            && (!self.failed || connect.errno != 0)
    }
}

/// Returns whether one of the wanted values matches, or there are none.
fn any<T>(wanted: &[T], is_it: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_its_addresses_and_no_other() {
        let within = |network, address: &str| cidr(network).contains(address.parse().unwrap());
        assert!(within("10.0.0.0/8", "10.255.1.2"));
        assert!(!within("10.0.0.0/8", "11.0.0.0"));
        assert!(
            within("10.1.2.3/8", "10.9.9.9"),
            "the rest of the bits is left out"
        );
        assert!(within("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(within("::/0", "10.1.1.1") && within("::/0", "fd00::1"));
        assert!(within("0.0.0.0/0", "10.1.1.1") && !within("0.0.0.0/0", "fd00::1"));
        assert!(within("fd00::1", "fd00::1") && !within("fd00::1", "fd00::2"));
    }

    #[test]
    fn a_network_is_printed_as_it_is_written() {
        for text in [
            "10.0.0.0/8",
            "127.0.0.1/32",
            "fd00::/8",
            "0.0.0.0/0",
            "::/0",
        ] {
            assert_eq!(cidr(text).to_string(), text);
        }
    }

    #[test]
    fn kinds_combine_with_and_and_alternatives_with_or() {
        let connect = connect_from(20_000);
        let span = |low, high| PortRange { low, high };
        let mut filters = Filters {
            dports: vec![span(1, 442), span(443, 443)],
            ..Filters::default()
        };
        assert!(filters.matches(&connect));
        filters.daddrs = vec![cidr("127.0.0.0/8")];
        assert!(filters.matches(&connect));
        filters.version = Some(IpVersion::V6);
        assert!(!filters.matches(&connect));
        let failed = Filters {
            failed: true,
            ..Filters::default()
        };
        assert!(!failed.matches(&connect));
        for (protocols, matches) in [
            (Protocols::TCP, true),
            (Protocols::UDP, false),
            (Protocols::ALL, true),
        ] {
            let of_protocol = Filters {
                protocols: Some(protocols),
                ..Filters::default()
            };
            assert_eq!(of_protocol.matches(&connect), matches, "{protocols:?}");
        }
    }
}
