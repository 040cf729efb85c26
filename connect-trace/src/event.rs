//! One connect(), decoded from the kernel's record into what the rest of the daemon works with.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use connect_trace_common::{ConnectRecord, Flags};

use crate::kernel::layout::Layout;

/// One connect() call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// When `tcp_v4_connect` or `tcp_v6_connect` was entered, nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Time in that function: until the SYN is sent, or the call has failed. The handshake is not in it.
    pub connect_ns: u64,
    /// Time in `__inet_hash_connect`, the port search; absent where the call failed before it.
    pub search_ns: Option<u64>,
    /// Family of the socket, and whether its destination was v4-mapped.
    pub family: Family,
    /// Source address; absent where the call failed before the port search.
    pub source: Option<IpAddr>,
    /// Where the source port came from.
    pub port: SourcePort,
    /// Destination; absent where the call failed before the port search.
    pub destination: Option<SocketAddr>,
    /// 0, or the errno that `tcp_v4_connect` or `tcp_v6_connect` returned.
    pub errno: i32,
    /// Process (thread-group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Name of the thread.
    pub comm: Comm,
    /// Real user id, as the initial user namespace counts.
    pub uid: u32,
    /// Inode number of the socket's network namespace; absent on a kernel without namespaces.
    pub netns: Option<u32>,
    /// Cgroup (v2) of the caller.
    pub cgroup_id: u64,
    /// The ports that were searched; absent where the call failed before the port search.
    pub range: Option<PortRange>,
    /// Calls of `__inet{,6}_check_established`; absent where they were not counted.
    pub checks: Option<u32>,
    /// Whether `__inet{,6}_check_established` was watched meanwhile, which slows the call down.
    pub checks_watched: bool,
}

/// Family of a socket and of where it connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// An IPv4 socket.
    V4,
    /// An IPv6 socket.
    V6,
    /// An IPv6 socket that connects to a v4-mapped address.
    Mapped,
}

/// The source port of a connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// None: the call failed, and the socket had no port of its own.
    None,
    /// The socket had it before connect(), by bind(): nothing was searched.
    Bound(u16),
    /// The kernel's port search found it.
    Searched(u16),
}

impl SourcePort {
    /// The number, where there is one.
    #[must_use]
    pub fn number(self) -> Option<u16> {
        match self {
            Self::None => None,
            Self::Bound(port) | Self::Searched(port) => Some(port),
        }
    }
}

/// The ports that a search goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// Lowest port.
    pub low: u16,
    /// Highest port.
    pub high: u16,
    /// Whether ports of one parity are tried before the others. Not so with `IP_LOCAL_PORT_RANGE` from
    /// Linux 6.8 on.
    pub by_parity: bool,
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.low, self.high)
    }
}

/// Which of the two passes of the search found a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The ports of the parity of the range's lowest.
    First,
    /// The others, tried when the first are taken.
    Second,
    /// All ports in one pass.
    Only,
}

/// Name of a thread: up to 15 bytes, of any value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// The name as the kernel keeps it: 15 bytes.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut comm = [0; 16];
        let length = name.len().min(15);
        comm[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self(comm)
    }
}

impl fmt::Display for Comm {
    /// Safe to send to a terminal: what does not print is escaped.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(self.0.len());
        formatter.pad(&self.0[..end].escape_ascii().to_string())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{self}\"")
    }
}

impl Connect {
    /// Which pass found the port; absent where no search found one, or its range is not known.
    #[must_use]
    pub fn pass(&self) -> Option<Pass> {
        let (SourcePort::Searched(port), Some(range)) = (self.port, self.range) else {
            return None;
        };
        Some(match (range.by_parity, port % 2 == range.low % 2) {
            (false, _) => Pass::Only,
            (true, true) => Pass::First,
            (true, false) => Pass::Second,
        })
    }
}

/// Turns the kernel's records into [`Connect`]s.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    socket_range_has_no_parity: bool,
}

impl Decoder {
    /// A decoder for the records of programs that were loaded with this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self {
            socket_range_has_no_parity: layout.socket_range_has_no_parity,
        }
    }

    /// Decodes one entry of the ring buffer; `None` where it is no record of ours.
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> Option<Connect> {
        let record: ConnectRecord = bytemuck::try_pod_read_unaligned(bytes).ok()?;
        let searched = record.flags.has(Flags::SEARCH_ENTERED);
        let failed = record.ret != 0;
        Some(Connect {
            start_ns: record.start_ns,
            connect_ns: record.connect_ns,
            search_ns: record
                .flags
                .has(Flags::SEARCH_TIMED)
                .then_some(record.search_ns),
            family: match (record.family, record.flags.has(Flags::MAPPED)) {
                (AF_INET6, true) => Family::Mapped,
                (AF_INET6, false) => Family::V6,
                _ => Family::V4,
            },
            source: searched.then(|| address(record.source)),
            port: match record.source_port {
                0 => SourcePort::None,
                // A socket that fails keeps only the port that it was bound to.
                port if failed || record.flags.has(Flags::PORT_BOUND) => SourcePort::Bound(port),
                port => SourcePort::Searched(port),
            },
            destination: searched
                .then(|| SocketAddr::new(address(record.destination), record.destination_port)),
            errno: record.ret.saturating_neg(),
            pid: record.pid,
            tid: record.tid,
            comm: Comm(record.comm),
            uid: record.uid,
            netns: record.flags.has(Flags::NETNS).then_some(record.netns),
            cgroup_id: record.cgroup_id,
            range: record
                .flags
                .has(Flags::NETNS_RANGE)
                .then(|| self.range(&record)),
            checks: record
                .flags
                .has(Flags::CHECKS_COUNTED)
                .then_some(record.checks),
            checks_watched: record.flags.has(Flags::CHECKS_WATCHED),
        })
    }

    /// The range of the namespace, narrowed by the socket's own as `inet_sk_get_local_port_range` does:
    /// an end that is not within counts as not set.
    fn range(&self, record: &ConnectRecord) -> PortRange {
        let [mut low, mut high] = record.netns_range;
        let [socket_low, socket_high] = record.socket_range;
        if (low..=high).contains(&socket_low) {
            low = socket_low;
        }
        if (low..=high).contains(&socket_high) {
            high = socket_high;
        }
        let own = record.socket_range != [0; 2];
        PortRange {
            low,
            high,
            by_parity: !(own && self.socket_range_has_no_parity),
        }
    }
}

const AF_INET6: u16 = 10;

fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

#[cfg(test)]
pub(crate) mod tests {
    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    use super::*;

    /// Whatever a record can be, sensible or not, but that the kernel returns errnos.
    pub(crate) fn any_connect() -> impl Strategy<Value = Connect> {
        let bytes = proptest::collection::vec(any::<u8>(), size_of::<ConnectRecord>());
        bytes.prop_map(|bytes| {
            let mut record: ConnectRecord = bytemuck::pod_read_unaligned(&bytes);
            record.ret = -record.ret.rem_euclid(4_096);
            decoder().decode(bytemuck::bytes_of(&record)).unwrap()
        })
    }

    fn decoder() -> Decoder {
        Decoder {
            socket_range_has_no_parity: true,
        }
    }

    fn record(change: impl FnOnce(&mut ConnectRecord)) -> Connect {
        let mut record = ConnectRecord::zeroed();
        record.family = 2;
        record.flags = Flags(Flags::SEARCH_ENTERED.0 | Flags::NETNS_RANGE.0);
        record.netns_range = [20_000, 21_999];
        change(&mut record);
        decoder().decode(bytemuck::bytes_of(&record)).unwrap()
    }

    #[test]
    fn other_bytes_are_no_record() {
        assert_eq!(decoder().decode(&[]), None);
        assert_eq!(decoder().decode(&[0; 17]), None);
    }

    #[test]
    fn a_call_that_failed_before_the_search_has_nothing_of_it() {
        let early = record(|record| {
            record.flags = Flags(0);
            record.ret = -101;
        });
        assert_eq!(early.errno, 101);
        assert_eq!(
            (early.search_ns, early.source, early.destination),
            (None, None, None)
        );
        assert_eq!(
            (early.port, early.range, early.pass()),
            (SourcePort::None, None, None)
        );
    }

    #[test]
    fn the_parity_of_the_lowest_port_is_tried_first() {
        let pass = |low, port| {
            record(|record| {
                record.netns_range = [low, low + 999];
                record.source_port = port;
            })
            .pass()
        };
        assert_eq!(pass(20_000, 20_002), Some(Pass::First));
        assert_eq!(pass(20_000, 20_003), Some(Pass::Second));
        assert_eq!(pass(20_001, 20_003), Some(Pass::First));
        assert_eq!(pass(20_001, 20_002), Some(Pass::Second));
    }

    #[test]
    fn a_bound_or_a_failed_port_was_in_no_pass() {
        let bound = record(|record| {
            record.flags.set(Flags::PORT_BOUND);
            record.source_port = 20_001;
        });
        assert_eq!(
            (bound.port, bound.pass()),
            (SourcePort::Bound(20_001), None)
        );
        let taken = record(|record| {
            record.ret = -99;
            record.source_port = 20_001;
        });
        assert_eq!(
            (taken.port, taken.pass()),
            (SourcePort::Bound(20_001), None)
        );
    }

    #[test]
    fn the_range_of_a_socket_narrows_that_of_the_namespace() {
        let range = |low, high| {
            record(|record| record.socket_range = [low, high])
                .range
                .unwrap()
        };
        let expect = |low, high, by_parity| PortRange {
            low,
            high,
            by_parity,
        };
        assert_eq!(range(0, 0), expect(20_000, 21_999, true));
        assert_eq!(range(20_101, 20_200), expect(20_101, 20_200, false));
        // An end outside of the namespace's range counts as not set; the search has no parity even so.
        assert_eq!(range(20_101, 0), expect(20_101, 21_999, false));
        assert_eq!(range(1, 60_000), expect(20_000, 21_999, false));
    }

    #[test]
    fn addresses_are_what_people_write() {
        let mapped = record(|record| {
            record.family = 10;
            record.flags.set(Flags::MAPPED);
            record.destination = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
            record.destination_port = 443;
        });
        assert_eq!(mapped.family, Family::Mapped);
        assert_eq!(mapped.destination.unwrap().to_string(), "127.0.0.1:443");
    }

    #[test]
    fn a_name_is_safe_on_a_terminal() {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"a\x1b[2J");
        assert_eq!(Comm(comm).to_string(), "a\\x1b[2J");
        assert_eq!(Comm([b'x'; 16]).to_string(), "x".repeat(16));
    }
}
