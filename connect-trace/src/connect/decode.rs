//! The kernel's record of a connect(), decoded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytemuck::Zeroable as _;
use connect_trace_common::{ConnectRecord, EndRecord, Flags, PhasedRecord, phases::Waits};

use super::{
    CallKind, Comm, Connect, ConnectionEvent, Family, LockWaits, Operation, Owner, Phases,
    PortChoice, PortRange, Protocol, SearchRange, SourcePort, Split,
    scan::{self, Order},
};
use crate::kernel::layout::Layout;

/// Turns the kernel's records into [`Connect`]s.
///
/// Clients often make many similar connections in a row, so most of a record is the same as in the one before it; that
/// part is decoded once.
#[derive(Clone, Debug)]
pub struct Decoder {
    kernel: Shown,
    /// The shared part of the record that was decoded last; `latest` is the result.
    shared: [u8; ConnectRecord::SHARED],
    latest: Connect,
    /// Order of the search in `latest`, if the start and the port that was found tell the length of the search.
    order: Option<Order>,
    /// True once a program was named whose range for its sockets the kernel ignores.
    has_warned: bool,
}

/// The properties of the kernel that decide what a record means.
#[derive(Clone, Copy, Debug)]
struct Shown {
    socket_range_has_no_parity: bool,
    has_namespaces: bool,
    shows_port_range: bool,
    user_locks_bit: Option<u32>,
    kernel_sock: Option<u32>,
    /// True if waits for locks are seen.
    lock_waits: bool,
}

/// `SOCK_BINDADDR_LOCK`, a bit of `sk_userlocks`.
const ADDRESS_LOCK: u8 = 4;
/// `SOCK_BINDPORT_LOCK`, a bit of `sk_userlocks`.
const PORT_LOCK: u8 = 8;

impl Decoder {
    /// Creates a decoder for the records of programs that were loaded with this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self::of(Shown {
            socket_range_has_no_parity: layout.socket_range_has_no_parity,
            has_namespaces: layout.has_namespaces,
            shows_port_range: layout.shows_port_range,
            user_locks_bit: layout.user_locks_bit,
            kernel_sock: layout.kernel_sock,
            lock_waits: layout.port_tables.is_some(),
        })
    }

    fn of(kernel: Shown) -> Self {
        let none = ConnectRecord::zeroed();
        Self {
            kernel,
            shared: *none.shared(),
            latest: kernel.shared(&none),
            order: None,
            has_warned: false,
        }
    }

    /// Decodes one entry of the ring buffer; `None` if it is no record of ours.
    pub fn decode(&mut self, bytes: &[u8]) -> Option<&Connect> {
        if let Ok(phased) = bytemuck::try_from_bytes::<PhasedRecord>(bytes) {
            self.decode(bytemuck::bytes_of(&phased.record))?;
            self.latest.phases = Some(self.kernel.phases(&phased.phases));
            return Some(&self.latest);
        }
        // A record in the ring buffer is aligned, and need not be copied.
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
            self.warn_of_ignored_range(record);
        }
        self.latest.take_own(record, self.order);
        Some(&self.latest)
    }

    /// Logs the first socket with a range of its own that the kernel ignores.
    fn warn_of_ignored_range(&mut self, record: &ConnectRecord) {
        let ignored = self.latest.range.and_then(|_| ignored_range(record));
        if let Some(own) = ignored.filter(|_| !self.has_warned) {
            self.has_warned = true;
            log::warn!(
                "{} (pid {}) set IP_LOCAL_PORT_RANGE {own}, outside of net.ipv4.ip_local_port_range {}: the kernel \
                 ignores it",
                Comm(bytemuck::cast(record.comm)),
                record.pid_tgid >> 32,
                PortRange::from(record.netns_range),
            );
        }
    }

    /// Decodes one entry of the ring buffer of the ends; `None` if it is no record of ours.
    pub fn decode_end(&mut self, bytes: &[u8]) -> Option<ConnectionEvent> {
        let record: EndRecord = bytemuck::try_pod_read_unaligned(bytes).ok()?;
        let connect = *self.decode(bytemuck::bytes_of(&record.connect))?;
        Some(ConnectionEvent::of(&record, connect))
    }
}

impl Connect {
    /// Takes all values from a record that are not shared with the record before.
    #[inline]
    fn take_own(&mut self, record: &ConnectRecord, order: Option<Order>) {
        let flags = record.flags;
        self.start_ns = record.start_ns;
        self.connect_ns = record.connect_ns;
        self.search_ns = flags.has(Flags::SEARCH_TIMED).then_some(record.search_ns);
        self.port = match record.source_port {
            0 => SourcePort::None,
            // A TCP socket whose connect() fails keeps only a port that it was bound to.
            port if !self.kind.protocol.is_udp() && record.ret != 0
                || flags.has(Flags::PORT_BOUND) =>
            {
                SourcePort::Bound(port)
            }
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
        self.phases = None;
    }
}

impl Shown {
    /// Decodes the part that consecutive records share.
    fn shared(&self, record: &ConnectRecord) -> Connect {
        let kind = kind(record.flags);
        let is_udp = kind.protocol.is_udp();
        let searched = record.flags.has(Flags::SEARCH_ENTERED);
        // A connect() of UDP makes no search if the socket has a port.
        let reached = searched || is_udp && record.ret == 0;
        let has_destination = kind.operation == Operation::Connect
            && (searched && !is_udp || record.flags.has(Flags::DESTINATION_PASSED));
        let locks = self.user_locks_bit.filter(|_| reached);
        let locks = locks.map(|bit| record.user_locks >> bit);
        let family = match (record.family, record.flags.has(Flags::MAPPED)) {
            (AF_INET6, true) => Family::Mapped,
            (AF_INET6, false) => Family::V6,
            _ => Family::V4,
        };
        let is_v6 = family == Family::V6;
        let range = (searched && self.shows_port_range).then(|| self.range(record));
        Connect {
            kind,
            family,
            source: reached.then(|| address(record.source, is_v6)),
            destination: has_destination.then(|| {
                SocketAddr::new(address(record.destination, is_v6), record.destination_port)
            }),
            errno: record.ret.saturating_neg(),
            netns: self.has_namespaces.then_some(record.netns),
            cgroup_id: record.cgroup_id,
            owner: self
                .kernel_sock
                .map(|kernel_sock| owner(record, kernel_sock)),
            range,
            port_choice: locks.map(|locks| port_choice(record, kind, locks)),
            address_bound: locks.map(|locks| match kind.operation {
                // The lock is set when the port has been chosen.
                Operation::Bind => !address(record.source, is_v6).is_unspecified(),
                Operation::Connect | Operation::Send => locks & ADDRESS_LOCK != 0,
            }),
            // The length of a search that found a port belongs to its record.
            scanned: range.filter(|_| found_none(record)).and_then(scan::all),
            // The following fields belong to each record: `take_own` sets them.
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
            phases: None,
        }
    }

    fn phases(&self, record: &connect_trace_common::Phases) -> Phases {
        let connect_trace_common::Phases {
            before_search_ns,
            in_search,
            elsewhere,
            bhash_ns,
            bhash2_ns,
            ehash_ns,
        } = *record;
        let split = |of: fn(&Waits) -> u64| Split {
            in_search_ns: of(&in_search),
            elsewhere_ns: of(&elsewhere),
        };
        Phases {
            before_search_ns,
            preempted: split(|waits| waits.preempted_ns),
            blocked: split(|waits| waits.blocked_ns),
            lock_waits: self.lock_waits.then(|| LockWaits {
                bhash_ns,
                bhash2_ns,
                ehash_ns,
                other: split(|waits| waits.other_lock_ns),
            }),
        }
    }

    /// Returns the range of the namespace, narrowed by the socket's own range.
    fn range(&self, record: &ConnectRecord) -> SearchRange {
        let [netns, socket] = [record.netns_range, record.socket_range].map(PortRange::from);
        let own = record.socket_range != [0; 2];
        SearchRange {
            ports: netns.narrowed(socket),
            by_parity: !(kind(record.flags).protocol.is_udp()
                || own && self.socket_range_has_no_parity),
        }
    }
}

#[cfg(test)]
impl Shown {
    /// The properties of a kernel that shows everything.
    const EXAMPLE: Self = Self {
        socket_range_has_no_parity: true,
        has_namespaces: true,
        shows_port_range: true,
        user_locks_bit: Some(4),
        kernel_sock: Some(2),
        lock_waits: true,
    };
}

#[cfg(test)]
impl Decoder {
    /// Returns a decoder for a kernel that shows everything.
    pub(crate) fn example() -> Self {
        Self::of(Shown::EXAMPLE)
    }
}

/// Returns the socket's own range if both of its ends lie outside of the namespace's range, so that the kernel ignores it.
fn ignored_range(record: &ConnectRecord) -> Option<PortRange> {
    let [netns, own] = [record.netns_range, record.socket_range].map(PortRange::from);
    let is_ignored = record.socket_range != [0; 2]
        && ![own.low, own.high].iter().any(|&end| netns.contains(end));
    is_ignored.then_some(own)
}

/// Returns the owner, from the bit of `sk_kern_sock`.
fn owner(record: &ConnectRecord, kernel_sock: u32) -> Owner {
    if record.bits_of_sock() & kernel_sock == 0 {
        Owner::Process
    } else if record.flags.has(Flags::KERNEL_THREAD) {
        Owner::Worker
    } else {
        Owner::Kernel
    }
}

/// Returns protocol and operation.
fn kind(flags: Flags) -> CallKind {
    let protocol = match flags.masked(Flags::PROTOCOL) {
        Flags::UDP => Protocol::Udp,
        Flags::UDP_LITE => Protocol::UdpLite,
        Flags::DCCP => Protocol::Dccp,
        _ => Protocol::Tcp,
    };
    let operation = match flags.masked(Flags::OPERATION) {
        Flags::BIND => Operation::Bind,
        Flags::SEND => Operation::Send,
        _ => Operation::Connect,
    };
    CallKind {
        protocol,
        operation,
    }
}

/// Returns the port choice, from the state of the socket when `__inet_hash_connect` was entered. The source address is
/// no evidence: the route has filled it in by then.
fn port_choice(record: &ConnectRecord, kind: CallKind, locks: u8) -> PortChoice {
    if record.flags.has(Flags::PORT_BOUND) {
        return if locks & PORT_LOCK != 0 {
            PortChoice::ExplicitPort
        } else {
            PortChoice::Bind
        };
    }
    if record.socket_range != [0; 2] {
        PortChoice::Range
    } else if kind.operation == Operation::Bind {
        PortChoice::Bind
    } else if locks & ADDRESS_LOCK != 0 {
        PortChoice::Address
    } else {
        PortChoice::Default
    }
}

/// Returns true if the programs read the start of the search. They do not read that of a search with random steps
/// (net.ipv4.ip_local_port_step_width).
fn has_start(record: &ConnectRecord) -> bool {
    record.flags.has(Flags::SCAN_STARTED) && !record.flags.has(Flags::PORT_BOUND)
}

/// Returns true if a search went through all ports and found none.
fn found_none(record: &ConnectRecord) -> bool {
    has_start(record) && record.ret == -libc::EADDRNOTAVAIL
}

/// Returns the order of a search that found a port, if its start is known.
fn order(record: &ConnectRecord, range: SearchRange) -> Option<Order> {
    let found = has_start(record) && record.ret == 0 && record.flags.has(Flags::SEARCH_TIMED);
    found.then(|| Order::of(range)).flatten()
}

const AF_INET6: u16 = 10;

/// Converts a kernel address in network order. Tests all bytes at once, while [`Ipv6Addr::to_canonical`] tests each.
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::Pass;

    fn decoder() -> Decoder {
        Decoder::example()
    }

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
            // Each record differs from the one before in one byte, in the shared part or outside of it.
            for (at, byte) in changes {
                bytes[at] = byte;
                let alone = *self::decoder().decode(&bytes).unwrap();
                prop_assert_eq!(decoder.decode(&bytes), Some(&alone));
            }
        }
    }

    #[test]
    fn the_parts_of_a_call_are_its_own() {
        let mut phased = PhasedRecord::zeroed();
        phased.record.family = 2;
        phased.phases.before_search_ns = 7;
        phased.phases.in_search.preempted_ns = 11;
        phased.phases.elsewhere.other_lock_ns = 13;
        phased.phases.ehash_ns = 17;
        let mut decoder = decoder();
        let bytes = bytemuck::bytes_of(&phased);
        let phases = decoder.decode(bytes).unwrap().phases.unwrap();
        let locks = phases.lock_waits.unwrap();
        assert_eq!(phases.before_search_ns, 7);
        assert_eq!(phases.preempted.in_search_ns, 11);
        assert_eq!((locks.ehash_ns, locks.other.elsewhere_ns), (17, 13));
        let record = bytemuck::bytes_of(&phased.record);
        assert_eq!(decoder.decode(record).unwrap().phases, None);
        let mut unseen = Decoder::of(Shown {
            lock_waits: false,
            ..Shown::EXAMPLE
        });
        let phases = unseen.decode(bytes).unwrap().phases.unwrap();
        assert_eq!(phases.lock_waits, None);
    }

    #[test]
    fn a_range_of_a_socket_outside_of_the_namespaces_is_ignored() {
        let ignored = |low, high| {
            let mut record = ConnectRecord::zeroed();
            record.netns_range = [20_000, 21_999];
            record.socket_range = [low, high];
            ignored_range(&record).map(|own| (own.low, own.high))
        };
        for (low, high) in [(1_000, 2_000), (22_000, 23_000), (1_000, 65_535), (0, 80)] {
            assert_eq!(ignored(low, high), Some((low, high)));
        }
        for (low, high) in [(0, 0), (20_000, 20_100), (1_000, 20_000), (0, 20_010)] {
            assert_eq!(ignored(low, high), None, "{low}-{high}");
        }
    }

    #[test]
    fn other_bytes_are_no_record() {
        assert_eq!(decoder().decode(&[]), None);
        assert_eq!(decoder().decode(&[0; 17]), None);
    }

    /// Returns a call of UDP from 192.0.2.1.
    fn of_udp(flags: &[Flags], ret: i32, source_port: u16) -> Connect {
        record(|record| {
            record.flags = Flags::UDP;
            flags.iter().for_each(|&flag| record.flags.set(flag));
            record.ret = ret;
            record.source_port = source_port;
            record.source = [u32::from_ne_bytes([192, 0, 2, 1]), 7, 7, 7];
            record.destination = [u32::from_ne_bytes([192, 0, 2, 2]), 7, 7, 7];
        })
    }

    #[test]
    fn a_search_of_udp_has_no_parity_and_keeps_its_port_if_connect_fails() {
        use Flags as F;
        let searched = [F::SEARCH_ENTERED, F::SEARCH_TIMED, F::DESTINATION_PASSED];
        for ret in [0, -libc::ENETUNREACH] {
            let connect = of_udp(&searched, ret, 20_001);
            assert_eq!(connect.kind.protocol, Protocol::Udp);
            assert_eq!(connect.kind.operation, Operation::Connect);
            assert_eq!(connect.port, SourcePort::Searched(20_001));
            assert_eq!(connect.pass(), Some(Pass::Only));
            assert_eq!(connect.scanned, None);
            assert_eq!(connect.destination, Some(([192, 0, 2, 2], 0).into()));
        }
        let exhausted = of_udp(&searched, -libc::EAGAIN, 0);
        assert_eq!(exhausted.port, SourcePort::None);
        assert!(exhausted.range.is_some() && exhausted.port_choice == Some(PortChoice::Default));
    }

    #[test]
    fn a_search_of_dccp_is_one_of_tcp() {
        let connect = record(|record| {
            record.flags = Flags(Flags::DCCP.0 | Flags::SEARCH_ENTERED.0 | Flags::SEARCH_TIMED.0);
            record.source_port = 20_001;
        });
        assert_eq!(connect.kind.protocol, Protocol::Dccp);
        assert_eq!(connect.pass(), Some(Pass::Second));
        assert!(connect.destination.is_some());
    }

    #[test]
    fn a_connect_of_udp_with_a_port_has_no_search() {
        let connected = of_udp(&[Flags::PORT_BOUND, Flags::DESTINATION_PASSED], 0, 20_001);
        assert_eq!(connected.port, SourcePort::Bound(20_001));
        assert_eq!((connected.range, connected.search_ns), (None, None));
        assert_eq!(connected.source, Some([192, 0, 2, 1].into()));
        assert_eq!(connected.port_choice, Some(PortChoice::Bind));
        let failed = of_udp(&[Flags::PORT_BOUND], -libc::EINVAL, 20_001);
        assert_eq!(failed.port, SourcePort::Bound(20_001));
        assert_eq!((failed.source, failed.destination), (None, None));
    }

    #[test]
    fn a_bind_or_a_send_has_no_destination() {
        use Flags as F;
        for (operation, choice, flag) in [
            (Operation::Bind, PortChoice::Bind, F::BIND),
            (Operation::Send, PortChoice::Default, F::SEND),
        ] {
            let call = of_udp(&[flag, F::SEARCH_ENTERED, F::SEARCH_TIMED], 0, 20_001);
            assert_eq!(call.kind.operation, operation);
            assert_eq!(call.destination, None);
            assert_eq!(call.port_choice, Some(choice));
            assert_eq!(call.address_bound, Some(operation == Operation::Bind));
        }
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
        let expect = |low, high, by_parity| SearchRange {
            ports: PortRange { low, high },
            by_parity,
        };
        assert_eq!(range(0, 0), expect(20_000, 21_999, true));
        assert_eq!(range(20_101, 20_200), expect(20_101, 20_200, false));
        // An end outside of the namespace's range counts as not set; the search still ignores parity.
        assert_eq!(range(20_101, 0), expect(20_101, 21_999, false));
        assert_eq!(range(1, 60_000), expect(20_000, 21_999, false));
    }

    #[test]
    fn the_strategy_is_what_was_done_with_the_socket_before() {
        let of = |port_bound: bool, locks: u8, socket_range| {
            let connect = record(|record| {
                record.socket_range = socket_range;
                // The bits beside the bit field belong to other members.
                record.user_locks = locks << 4 | 0xf;
                if port_bound {
                    record.flags.set(Flags::PORT_BOUND);
                }
            });
            (
                connect.port_choice.unwrap().name(),
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
        for strategy in PortChoice::ALL {
            let same = PortChoice::ALL
                .iter()
                .filter(|s| s.name() == strategy.name());
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
                ..Shown::EXAMPLE
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
            ..Shown::EXAMPLE
        });
        let mut bytes = ConnectRecord::zeroed();
        bytes.flags = Flags::SEARCH_ENTERED;
        bytes.user_locks = ADDRESS_LOCK << 4;
        let unknown = blind.decode(bytemuck::bytes_of(&bytes)).unwrap();
        assert_eq!((unknown.port_choice, unknown.address_bound), (None, None));
        let early = record(|record| record.flags = Flags(0));
        assert_eq!((early.port_choice, early.address_bound), (None, None));
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
        // The first pass tried half of the ports.
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
        // Any other bit makes it another address.
        for bit in 0..128 {
            let mut bytes = mapped;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let expected = IpAddr::from(bytes).to_canonical();
            assert_eq!(address(bytemuck::cast(bytes), true), expected, "bit {bit}");
            assert_eq!(expected.is_ipv4(), bit >= 96);
        }
    }
}
