//! One connect(), decoded from the kernel's record into what the rest of the daemon works with.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytemuck::Zeroable as _;
use connect_trace_common::{ConnectRecord, Flags};

use crate::{
    kernel::layout::Layout,
    scan::{self, Order},
};

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
    /// Destination: the one that was passed if the call failed before the port search, and absent if that was not an
    /// address of the socket's family.
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
    /// Who made the connection; absent where the kernel's sockets do not show it.
    pub owner: Option<Owner>,
    /// The ports that were searched; absent where the call failed before the port search.
    pub range: Option<PortRange>,
    /// How the port was chosen; absent where the call failed before the port search, or the kernel's sockets
    /// do not show it.
    pub strategy: Option<Strategy>,
    /// Whether an address was bound before (`SOCK_BINDADDR_LOCK`); absent as `strategy`.
    pub address_bound: Option<bool>,
    /// Ports that the search went through, the one that it found among them; all of the range where it
    /// found none. Absent without a search, and where it cannot be known: see [`crate::scan`].
    pub scanned: Option<u32>,
    /// Calls of `__inet{,6}_check_established`; absent where they were not counted.
    pub checks: Option<u32>,
    /// True if any of its calls of `__inet{,6}_check_established` was seen: being watched makes the search longer.
    pub checks_watched: bool,
}

/// Who made a connection, from whose the socket is (`sk_kern_sock`) and what thread called connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A process, with a socket of its own.
    Process,
    /// The kernel, with a socket of its own, for the process that called it: the first subflow of MPTCP.
    Kernel,
    /// The kernel, with a socket and in a thread of its own: further subflows of MPTCP, NFS.
    Worker,
}

impl Owner {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Process, Self::Kernel, Self::Worker];

    /// Returns its name in JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kernel => "kernel",
            Self::Worker => "worker",
        }
    }
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

/// How the source port of a connect() is chosen, from what was done with the socket before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strategy {
    /// bind() to a port by its number.
    ExplicitPort,
    /// bind() to port 0 without `IP_BIND_ADDRESS_NO_PORT`, which chose the port.
    Bind,
    /// connect() chooses, for an address that was bound.
    Address,
    /// connect() chooses from the socket's own `IP_LOCAL_PORT_RANGE`, for an address that was bound or
    /// for any: see [`Connect::address_bound`].
    Range,
    /// connect() chooses, and nothing was set before. A bind() to the unspecified address with
    /// `IP_BIND_ADDRESS_NO_PORT` is this too: the kernel keeps no sign of it.
    Default,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ExplicitPort,
        Self::Bind,
        Self::Address,
        Self::Range,
        Self::Default,
    ];

    /// Its name in text, JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExplicitPort => "explicit-port",
            Self::Bind => "bind",
            Self::Address => "address",
            Self::Range => "range",
            Self::Default => "default",
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

impl PortRange {
    /// Number of ports in it; 0 where it is upside down, as no kernel has it.
    #[must_use]
    pub fn width(self) -> u32 {
        (u32::from(self.high) + 1).saturating_sub(self.low.into())
    }

    /// Which pass of a search tries a port of it; the parity alone decides.
    #[must_use]
    pub fn pass(self, port: u16) -> Pass {
        match (self.by_parity, port % 2 == self.low % 2) {
            (false, _) => Pass::Only,
            (true, true) => Pass::First,
            (true, false) => Pass::Second,
        }
    }
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
        Some(range.pass(port))
    }
}

/// Turns the kernel's records into [`Connect`]s.
///
/// Most of a connect() is the same as in the one before it, as a client that opens connections makes them, and is decoded
/// once for all of these.
#[derive(Clone, Debug)]
pub struct Decoder {
    kernel: Shown,
    /// The record that was decoded last, as far as it is shared, and what it says.
    shared: [u8; ConnectRecord::SHARED],
    latest: Connect,
    /// The order of its search, if the length of that is told by where it started and what it found.
    order: Option<Order>,
}

/// The properties of the kernel that decide what a record means.
#[derive(Clone, Copy, Debug)]
struct Shown {
    socket_range_has_no_parity: bool,
    has_namespaces: bool,
    shows_port_range: bool,
    user_locks_bit: Option<u32>,
    kernel_sock: Option<u32>,
}

/// `SOCK_BINDADDR_LOCK`
const ADDRESS_LOCK: u8 = 4;
/// `SOCK_BINDPORT_LOCK`
const PORT_LOCK: u8 = 8;

impl Decoder {
    /// A decoder for the records of programs that were loaded with this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self::of(Shown {
            socket_range_has_no_parity: layout.socket_range_has_no_parity,
            has_namespaces: layout.has_namespaces,
            shows_port_range: layout.shows_port_range,
            user_locks_bit: layout.user_locks_bit,
            kernel_sock: layout.kernel_sock,
        })
    }

    fn of(kernel: Shown) -> Self {
        let none = ConnectRecord::zeroed();
        Self {
            kernel,
            shared: *none.shared(),
            latest: kernel.shared(&none),
            order: None,
        }
    }

    /// Decodes one entry of the ring buffer; `None` if it is no record of ours.
    pub fn decode(&mut self, bytes: &[u8]) -> Option<&Connect> {
        // In the ring buffer a record is aligned, and need not be copied.
        let copy: ConnectRecord;
        let record = match bytemuck::try_from_bytes::<ConnectRecord>(bytes) {
            Ok(record) => record,
            Err(_) => {
                copy = bytemuck::try_pod_read_unaligned(bytes).ok()?;
                &copy
            }
        };
        if *record.shared() != self.shared {
            self.shared = *record.shared();
            self.latest = self.kernel.shared(record);
            self.order = self.latest.range.and_then(|range| order(record, range));
        }
        self.latest.take_own(record, self.order);
        Some(&self.latest)
    }
}

impl Connect {
    /// Takes from a record all that is not shared with the record before.
    #[inline]
    fn take_own(&mut self, record: &ConnectRecord, order: Option<Order>) {
        let flags = record.flags;
        self.start_ns = record.start_ns;
        self.connect_ns = record.connect_ns;
        self.search_ns = flags.has(Flags::SEARCH_TIMED).then_some(record.search_ns);
        self.port = match record.source_port {
            0 => SourcePort::None,
            // A socket that fails keeps only the port that it was bound to.
            port if record.ret != 0 || flags.has(Flags::PORT_BOUND) => SourcePort::Bound(port),
            port => SourcePort::Searched(port),
        };
        self.pid = (record.pid_tgid >> 32) as u32;
        self.tid = record.pid_tgid as u32;
        self.comm = Comm(bytemuck::cast(record.comm));
        self.uid = record.uid;
        if let Some(order) = order {
            let start = scan::Start {
                sum: record.scan_start,
                advance: record.scan_advance,
            };
            self.scanned = match record.source_port {
                0 => None,
                port => order.until(start, port),
            };
        }
        self.checks = flags.has(Flags::CHECKS_COUNTED).then_some(record.checks);
        self.checks_watched = record.checks != 0;
    }
}

impl Shown {
    /// Decodes what is shared with the next record.
    fn shared(&self, record: &ConnectRecord) -> Connect {
        let searched = record.flags.has(Flags::SEARCH_ENTERED);
        let locks = self.user_locks_bit.filter(|_| searched);
        let locks = locks.map(|bit| record.user_locks >> bit);
        let family = match (record.family, record.flags.has(Flags::MAPPED)) {
            (AF_INET6, true) => Family::Mapped,
            (AF_INET6, false) => Family::V6,
            _ => Family::V4,
        };
        let is_v6 = family == Family::V6;
        let range = (searched && self.shows_port_range).then(|| self.range(record));
        Connect {
            family,
            source: searched.then(|| address(record.source, is_v6)),
            destination: (searched || record.flags.has(Flags::DESTINATION_PASSED)).then(|| {
                SocketAddr::new(address(record.destination, is_v6), record.destination_port)
            }),
            errno: record.ret.saturating_neg(),
            netns: self.has_namespaces.then_some(record.netns),
            cgroup_id: record.cgroup_id,
            owner: self
                .kernel_sock
                .map(|kernel_sock| owner(record, kernel_sock)),
            range,
            strategy: locks.map(|locks| strategy(record, locks)),
            address_bound: locks.map(|locks| locks & ADDRESS_LOCK != 0),
            // Of a search that found one, it is its own.
            scanned: range.filter(|_| found_none(record)).and_then(scan::all),
            // As all from here on.
            start_ns: 0,
            connect_ns: 0,
            search_ns: None,
            port: SourcePort::None,
            pid: 0,
            tid: 0,
            comm: Comm([0; 16]),
            uid: 0,
            checks: None,
            checks_watched: false,
        }
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

/// Tells the owner by the bit of `sk_kern_sock`.
fn owner(record: &ConnectRecord, kernel_sock: u32) -> Owner {
    if record.bits_of_sock() & kernel_sock == 0 {
        Owner::Process
    } else if record.flags.has(Flags::KERNEL_THREAD) {
        Owner::Worker
    } else {
        Owner::Kernel
    }
}

/// By what the socket had when `__inet_hash_connect` was entered. Its source address tells nothing: the
/// route has filled it in by then.
fn strategy(record: &ConnectRecord, locks: u8) -> Strategy {
    if record.flags.has(Flags::PORT_BOUND) {
        return if locks & PORT_LOCK != 0 {
            Strategy::ExplicitPort
        } else {
            Strategy::Bind
        };
    }
    if record.socket_range != [0; 2] {
        Strategy::Range
    } else if locks & ADDRESS_LOCK != 0 {
        Strategy::Address
    } else {
        Strategy::Default
    }
}

/// Returns whether a search was seen to start. With random steps (net.ipv4.ip_local_port_step_width) the programs do not
/// look where it started.
fn has_start(record: &ConnectRecord) -> bool {
    record.flags.has(Flags::SCAN_STARTED) && !record.flags.has(Flags::PORT_BOUND)
}

/// Returns whether a search went through all ports in vain.
fn found_none(record: &ConnectRecord) -> bool {
    has_start(record) && record.ret == -libc::EADDRNOTAVAIL
}

/// Returns the order of a search that found a port, if it is known where it started.
fn order(record: &ConnectRecord, range: PortRange) -> Option<Order> {
    let found = has_start(record) && record.ret == 0 && record.flags.has(Flags::SEARCH_TIMED);
    found.then(|| Order::of(range)).flatten()
}

const AF_INET6: u16 = 10;

/// An address of the kernel's, in network order. Looks at all bytes at once: [`Ipv6Addr::to_canonical`] looks
/// at each.
fn address(words: [u32; 4], is_v6: bool) -> IpAddr {
    if !is_v6 {
        return IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(words[0])));
    }
    let bits = u128::from_be_bytes(bytemuck::cast(words));
    match (bits >> 32, bits as u32) {
        (0xffff, v4) => IpAddr::V4(Ipv4Addr::from_bits(v4)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use proptest::strategy::Strategy as _;

    use super::{Strategy, *};

    /// Whatever a record can be, sensible or not, but that the kernel returns errnos.
    pub(crate) fn any_connect() -> impl proptest::strategy::Strategy<Value = Connect> {
        let bytes = proptest::collection::vec(any::<u8>(), size_of::<ConnectRecord>());
        bytes.prop_map(|bytes| {
            let mut record: ConnectRecord = bytemuck::pod_read_unaligned(&bytes);
            record.ret = -record.ret.rem_euclid(4_096);
            *decoder().decode(bytemuck::bytes_of(&record)).unwrap()
        })
    }

    fn decoder() -> Decoder {
        Decoder::of(SHOWN)
    }

    const SHOWN: Shown = Shown {
        socket_range_has_no_parity: true,
        has_namespaces: true,
        shows_port_range: true,
        user_locks_bit: Some(4),
        kernel_sock: Some(2),
    };

    fn record(change: impl FnOnce(&mut ConnectRecord)) -> Connect {
        let mut record = ConnectRecord::zeroed();
        record.family = 2;
        record.flags = Flags::SEARCH_ENTERED;
        record.netns_range = [20_000, 21_999];
        change(&mut record);
        *decoder().decode(bytemuck::bytes_of(&record)).unwrap()
    }

    proptest! {
        #[test]
        fn a_connect_is_the_same_whatever_came_before(
            mut bytes in proptest::collection::vec(any::<u8>(), size_of::<ConnectRecord>()),
            changes in proptest::collection::vec((0..size_of::<ConnectRecord>(), any::<u8>()), 1..20),
        ) {
            let mut decoder = decoder();
            // Each differs from the one before in one byte: shared with it or not.
            for (at, byte) in changes {
                bytes[at] = byte;
                let alone = *self::decoder().decode(&bytes).unwrap();
                prop_assert_eq!(decoder.decode(&bytes), Some(&alone));
            }
        }
    }

    #[test]
    fn other_bytes_are_no_record() {
        assert_eq!(decoder().decode(&[]), None);
        assert_eq!(decoder().decode(&[0; 17]), None);
    }

    #[test]
    fn a_call_that_failed_before_the_search_has_the_destination_that_was_passed() {
        let passed = |family, flags: Flags, destination: [u32; 4]| {
            let connect = record(|record| {
                record.family = family;
                record.flags = Flags(flags.0 | Flags::DESTINATION_PASSED.0);
                record.ret = -101;
                record.destination = destination;
                record.destination_port = 80;
            });
            assert_eq!((connect.source, connect.search_ns), (None, None));
            (connect.family, connect.destination.unwrap().to_string())
        };
        let v4 = [u32::from_ne_bytes([192, 0, 2, 1]), 7, 7, 7];
        let expected = |family, destination: &str| (family, destination.to_owned());
        assert_eq!(
            passed(2, Flags(0), v4),
            expected(Family::V4, "192.0.2.1:80")
        );
        assert_eq!(
            passed(10, Flags::MAPPED, v4),
            expected(Family::Mapped, "192.0.2.1:80")
        );
        let v6 = [0, 0, 0, 1_u32.to_be()];
        assert_eq!(passed(10, Flags(0), v6), expected(Family::V6, "[::1]:80"));
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
    fn the_strategy_is_what_was_done_with_the_socket_before() {
        let of = |port_bound: bool, locks: u8, socket_range| {
            let connect = record(|record| {
                record.socket_range = socket_range;
                // What lies beside the bit field is another one's.
                record.user_locks = locks << 4 | 0xf;
                if port_bound {
                    record.flags.set(Flags::PORT_BOUND);
                }
            });
            (
                connect.strategy.unwrap().name(),
                connect.address_bound.unwrap(),
            )
        };
        let (address, port) = (ADDRESS_LOCK, PORT_LOCK);
        assert_eq!(of(false, 0, [0; 2]), ("default", false));
        assert_eq!(of(false, address, [0; 2]), ("address", true));
        assert_eq!(of(false, 0, [20_100, 20_599]), ("range", false));
        assert_eq!(of(false, address, [0, 20_599]), ("range", true));
        assert_eq!(of(true, address, [0; 2]), ("bind", true));
        assert_eq!(of(true, port, [0; 2]), ("explicit-port", false));
        assert_eq!(of(true, port, [1, 2]), ("explicit-port", false));
        for strategy in Strategy::ALL {
            let same = Strategy::ALL.iter().filter(|s| s.name() == strategy.name());
            assert_eq!(same.count(), 1, "{}", strategy.name());
        }
    }

    #[test]
    fn the_owner_is_told_by_the_socket_and_the_thread() {
        let owner = |user_locks, kernel_sock, flags, bit| {
            let record = ConnectRecord {
                user_locks,
                kernel_sock,
                flags,
                ..ConnectRecord::zeroed()
            };
            let mut decoder = Decoder::of(Shown {
                kernel_sock: bit,
                ..SHOWN
            });
            decoder.decode(bytemuck::bytes_of(&record)).unwrap().owner
        };
        let none = Flags(0);
        // The bits beside it are other members.
        for (with_locks, own) in [(2, !2), (!2, 2)] {
            let of = |byte| Some([Owner::Process, Owner::Kernel][usize::from(byte == 2)]);
            assert_eq!(owner(with_locks, own, none, Some(2)), of(with_locks));
            assert_eq!(owner(with_locks, own, none, Some(2 << 8)), of(own));
            assert_eq!(owner(with_locks, own, none, None), None);
        }
        let in_thread = Flags::KERNEL_THREAD;
        assert_eq!(owner(2, 0, in_thread, Some(2)), Some(Owner::Worker));
    }

    #[test]
    fn a_kernel_whose_sockets_show_no_locks_has_no_strategies() {
        let mut blind = Decoder::of(Shown {
            user_locks_bit: None,
            ..SHOWN
        });
        let mut bytes = ConnectRecord::zeroed();
        bytes.flags = Flags::SEARCH_ENTERED;
        bytes.user_locks = ADDRESS_LOCK << 4;
        let unknown = blind.decode(bytemuck::bytes_of(&bytes)).unwrap();
        assert_eq!((unknown.strategy, unknown.address_bound), (None, None));
        let early = record(|record| record.flags = Flags(0));
        assert_eq!((early.strategy, early.address_bound), (None, None));
    }

    #[test]
    fn the_ports_of_a_search_are_known_where_its_start_is() {
        let scanned = |change: fn(&mut ConnectRecord)| {
            record(|record| {
                record.flags.set(Flags::SCAN_STARTED);
                record.flags.set(Flags::SEARCH_TIMED);
                record.scan_start = 100;
                record.scan_advance = 42;
                record.source_port = 20_140;
                change(record);
            })
            .scanned
        };
        assert_eq!(scanned(|_| {}), Some(21));
        // Half of the ports were tried in the first pass.
        assert_eq!(scanned(|record| record.source_port = 20_141), Some(1_021));
        assert_eq!(scanned(|record| record.scan_advance = 0), None);
        assert_eq!(
            scanned(|record| (record.ret, record.source_port) = (-99, 0)),
            Some(2_000)
        );
        assert_eq!(
            scanned(|record| (record.ret, record.source_port) = (-12, 0)),
            None
        );
        assert_eq!(
            scanned(|record| record.flags.set(Flags::PORT_BOUND)),
            None,
            "nothing was searched"
        );
        assert_eq!(
            scanned(|record| record.flags.0 &= !Flags::SCAN_STARTED.0),
            None
        );
        assert_eq!(
            scanned(|record| record.flags.0 &= !Flags::SEARCH_TIMED.0),
            None
        );
    }

    #[test]
    fn addresses_are_what_people_write() {
        let mapped = record(|record| {
            record.family = 10;
            record.flags.set(Flags::MAPPED);
            record.destination[0] = u32::from_ne_bytes([127, 0, 0, 1]);
            record.destination_port = 443;
        });
        assert_eq!(mapped.family, Family::Mapped);
        assert_eq!(mapped.destination.unwrap().to_string(), "127.0.0.1:443");
    }

    #[test]
    fn an_address_is_the_standard_librarys_canonical_one() {
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        assert_eq!(
            address(bytemuck::cast(mapped), true),
            IpAddr::from([192, 0, 2, 1])
        );
        // Each other bit makes it another address.
        for bit in 0..128 {
            let mut bytes = mapped;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = IpAddr::from(bytes).to_canonical();
            assert_eq!(address(bytemuck::cast(bytes), true), expected, "bit {bit}");
            assert_eq!(expected.is_ipv4(), bit >= 96);
        }
    }

    #[test]
    fn a_name_is_safe_on_a_terminal() {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"a\x1b[2J");
        assert_eq!(Comm(comm).to_string(), "a\\x1b[2J");
        assert_eq!(Comm([b'x'; 16]).to_string(), "x".repeat(16));
    }
}
