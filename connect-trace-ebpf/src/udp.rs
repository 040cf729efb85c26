//! The calls for which UDP chooses a source port, and connect() of UDP sockets that have one: connect(), bind() to
//! port 0, and the first send of a socket without a port. Each one is a call in flight, with a record at its end, like
//! a connect() of TCP.
//!
//! ```text
//! connect()  inet_dgram_connect ── inet_autobind ── udp_lib_get_port(snum 0)
//! send()                           inet_autobind ── udp_lib_get_port(snum 0)
//! bind()                                            udp_lib_get_port(snum 0)
//! ```
//!
//! The outermost function begins and ends the call; the port search is `udp_lib_get_port`. An inner function belongs to
//! the call in flight of its thread if that is a call on the same socket. If the outer call gets no record, its socket is
//! in the map `REJECTED` meanwhile, so that the inner functions do not begin a call of their own.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use connect_trace_common::{ConnectRecord, FilterBits, Flags, InFlight};

use crate::{
    address::{Address, Destination},
    connect::{self, Function, has_options},
    filter,
    in_flight::{Call, Thread},
    maps::REJECTED,
    shared::{control, count, counter},
    sock::{AF_INET, AF_INET6, Memory, Sock},
    task::Task,
};

/// Operation of [`Flags::OPERATION`] for connect().
const CONNECT: Flags = Flags(0);

/// Returns the protocol, by its bits in [`Flags`]; `None` if it is not UDP or UDP-Lite. A raw socket can have their
/// protocol numbers, but it has another type.
#[inline(always)]
fn protocol<M: Memory>(sock: Sock<M>) -> Option<Flags> {
    const SOCK_DGRAM: u16 = 2;
    const IPPROTO_UDP: u16 = 17;
    const IPPROTO_UDPLITE: u16 = 136;
    match sock.type_and_protocol() {
        [SOCK_DGRAM, IPPROTO_UDP] => Some(Flags::UDP),
        [SOCK_DGRAM, IPPROTO_UDPLITE] => Some(Flags::UDP_LITE),
        _ => None,
    }
}

/// Returns true if the protocol is UDP or UDP-Lite.
#[inline(always)]
fn is_udp(flags: Flags) -> bool {
    let protocol = flags.masked(Flags::PROTOCOL);
    protocol.0 == Flags::UDP.0 || protocol.0 == Flags::UDP_LITE.0
}

/// Returns true if a call in flight is one of UDP, with this operation and on the socket at this address.
#[inline(always)]
fn is(call: &InFlight, operation: Flags, sock: u64) -> bool {
    let flags = call.record.flags;
    call.sock == sock && is_udp(flags) && flags.masked(Flags::OPERATION).0 == operation.0
}

/// Returns the function that reads the passed address: an IPv6 socket of UDP takes IPv4 addresses too.
#[inline(always)]
fn function(family: u16, address: Address) -> Function {
    if family == AF_INET || address.family() == AF_INET {
        Function::V4
    } else {
        Function::V6
    }
}

/// Handles the entry of `inet_dgram_connect`.
#[inline(always)]
pub fn connect_entered<M: Memory>(sock: Sock<M>, address: Address, length: i32) {
    const AF_UNSPEC: u16 = 0;
    let thread = Thread::current();
    let Some(protocol) = protocol(sock) else {
        connect::without_record(thread);
        return;
    };
    // The kernel connects to no address of these.
    if length < size_of::<u16>() as i32 || address.family() == AF_UNSPEC {
        connect::without_record(thread);
        return;
    }
    let family = sock.family();
    let wanted = || filter::wants_call(function(family, address), sock, address);
    match begin(sock, family, protocol, wanted) {
        Some(call) => {
            call.address = address.0 as u64;
            if sock.source_port() != 0 {
                call.record.flags.set(Flags::PORT_BOUND);
            }
        }
        None => reject(thread, sock.address()),
    }
}

/// Handles the return of `inet_dgram_connect`; `sock` makes the socket of its address, if the probe does not see it.
#[inline(always)]
pub fn connect_returned<M: Memory>(ret: i32, sock: impl FnOnce(u64) -> Sock<M>) {
    let thread = Thread::current();
    let Some(in_flight) = thread.call() else {
        admit(thread);
        return;
    };
    let (kept, address) = (in_flight.kept.sock, in_flight.kept.address);
    if is(in_flight.kept, CONNECT, kept) {
        finish(in_flight, ret, sock(kept), Address(address as *const u8));
    }
}

/// Handles the entry of `inet_autobind`.
#[inline(always)]
pub fn autobind_entered<M: Memory>(sock: Sock<M>) {
    let thread = Thread::current();
    let id = sock.address();
    if let Some(call) = thread.call()
        && is(call.kept, CONNECT, id)
    {
        return;
    }
    if is_rejected(thread, id) {
        return;
    }
    let Some(protocol) = protocol(sock) else {
        connect::without_record(thread);
        return;
    };
    let flags = Flags(protocol.0 | Flags::SEND.0);
    if begin_without_destination(sock, flags).is_none() {
        reject(thread, id);
    }
}

/// Handles the return of `inet_autobind`.
#[inline(always)]
pub fn autobind_returned<M: Memory>(ret: i32, sock: impl FnOnce(u64) -> Sock<M>) {
    let thread = Thread::current();
    let Some(in_flight) = thread.call() else {
        // If this is within a connect(), the search is over.
        admit(thread);
        return;
    };
    let kept = in_flight.kept.sock;
    if is(in_flight.kept, Flags::SEND, kept) {
        finish(in_flight, ret, sock(kept), Address(core::ptr::null()));
    }
}

/// Handles the entry of `udp_lib_get_port`; `port` is the one that was asked for, 0 for any.
#[inline(always)]
pub fn search_entered<M: Memory>(sock: Sock<M>, port: u16) {
    if port != 0 {
        return;
    }
    let thread = Thread::current();
    let id = sock.address();
    let outer = thread
        .call()
        .filter(|call| is(call.kept, CONNECT, id) || is(call.kept, Flags::SEND, id));
    let call = match outer {
        Some(call) => call.kept,
        None => {
            if is_rejected(thread, id) {
                return;
            }
            let Some(protocol) = protocol(sock) else {
                return;
            };
            let flags = Flags(protocol.0 | Flags::BIND.0);
            let Some(call) = begin_without_destination(sock, flags) else {
                return;
            };
            call
        }
    };
    let record = &mut call.record;
    record.socket_range = sock.local_port_range_of_udp();
    record.netns_range = sock.net().port_range();
    record.flags.set(Flags::SEARCH_ENTERED);
    // This search locks none of the tables that a `death_row` leads to.
    record.search_ns = connect::search_entry_ns(record.start_ns, || 0);
}

/// Handles the return of `udp_lib_get_port`.
#[inline(always)]
pub fn search_returned<M: Memory>(ret: i32, sock: impl FnOnce(u64) -> Sock<M>) {
    let Some(in_flight) = Thread::current().call() else {
        return;
    };
    let now = connect::search_return_ns();
    let record = &mut in_flight.kept.record;
    let flags = record.flags;
    if !is_udp(flags)
        || flags
            .masked(Flags(Flags::SEARCH_ENTERED.0 | Flags::SEARCH_TIMED.0))
            .0
            != Flags::SEARCH_ENTERED.0
    {
        return;
    }
    record.search_ns = now - record.search_ns;
    record.flags.set(Flags::SEARCH_TIMED);
    let kept = in_flight.kept.sock;
    if is(in_flight.kept, Flags::BIND, kept) {
        // On Linux 5.10 the function returns 1, of which bind() makes this error.
        const EADDRINUSE: i32 = 98;
        let ret = if ret > 0 { -EADDRINUSE } else { ret };
        finish(in_flight, ret, sock(kept), Address(core::ptr::null()));
    }
}

/// Begins a call without a destination.
#[inline(always)]
fn begin_without_destination<M: Memory>(
    sock: Sock<M>,
    flags: Flags,
) -> Option<&'static mut InFlight> {
    let family = sock.family();
    let is_v4 = || family == AF_INET || Destination(sock.addresses_v6()[0]).v4().is_some();
    let wanted = || filter::wants_call_without_destination(sock, is_v4);
    begin(sock, family, flags, wanted)
}

/// Begins a call, if it is to get a record.
#[inline(always)]
fn begin<M: Memory>(
    sock: Sock<M>,
    family: u16,
    flags: Flags,
    wanted: impl FnOnce() -> bool,
) -> Option<&'static mut InFlight> {
    if control!(open) == 0 {
        connect::closed();
        return None;
    }
    if has_options() && !(filter::wants_process(bpf_get_current_pid_tgid()) && wanted()) {
        count(counter!(filtered));
        connect::without_record(Thread::current());
        return None;
    }
    let call = connect::begin(family)?;
    call.sock = sock.address();
    call.record.flags = flags;
    Some(call)
}

/// Ends a call, and writes its record.
#[inline(always)]
fn finish<M: Memory>(in_flight: Call, ret: i32, sock: Sock<M>, address: Address) {
    let now = connect::return_ns();
    if has_options() && filter::filters().any(FilterBits::FAILED) && ret == 0 {
        count(counter!(succeeded));
        in_flight.leave();
        return;
    }
    let record = &mut in_flight.kept.record;
    record.connect_ns = now - record.start_ns;
    record.ret = ret;
    let task = Task::current(has_options());
    record.uid = task.uid();
    record.comm = task.comm();
    // SAFETY: a helper without preconditions.
    record.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    record.netns = sock.net().inode();
    record.user_locks = sock.user_locks();
    record.kernel_sock = sock.kernel_sock();
    if !record.flags.has(Flags::SEARCH_TIMED) {
        record.search_ns = 0;
        let is_bound = record.flags.has(Flags::PORT_BOUND);
        if record.flags.has(Flags::SEARCH_ENTERED) || ret == 0 && !is_bound {
            count(counter!(search_return_missed));
        }
    }
    take_addresses(record, sock, address);
    connect::report(in_flight, task, |_| {});
}

/// Takes ports and addresses: of the socket, but the destination of a connect() that failed is the passed one.
#[inline(always)]
fn take_addresses<M: Memory>(record: &mut ConnectRecord, sock: Sock<M>, address: Address) {
    /// Error of a call whose address may be too short for its family.
    const EINVAL: i32 = 22;
    let [source_port, destination_port] = sock.ports();
    record.source_port = source_port;
    record.destination_port = destination_port;
    let is_v6 = record.family == AF_INET6;
    if is_v6 {
        [record.source, record.destination] = sock.addresses_v6();
    } else {
        [record.source[0], record.destination[0]] = sock.addresses_v4();
    }
    let mut flags = record.flags;
    if flags.masked(Flags::OPERATION).0 == CONNECT.0 {
        if record.ret == 0 {
            flags.set(Flags::DESTINATION_PASSED);
        } else {
            let function = function(record.family, address);
            if record.ret != -EINVAL && address.is_for(function) {
                flags.set(Flags::DESTINATION_PASSED);
                record.destination_port = address.port();
                let Destination(words) = address.destination(function, sock);
                if is_v6 {
                    record.destination = words;
                } else {
                    record.destination[0] = words[3];
                }
            }
        }
    }
    if is_v6 {
        // The source decides if there is no destination.
        let destination = Destination(record.destination).v4();
        let source = Destination(record.source).v4();
        let has_destination = flags.has(Flags::DESTINATION_PASSED);
        if has_destination && destination.is_some() || !has_destination && source.is_some() {
            flags.set(Flags::MAPPED);
            record.destination[0] = record.destination[3];
            record.source[0] = record.source[3];
        }
    }
    record.flags = flags;
}

/// Remembers that the thread is in a call on this socket that gets no record.
#[inline(always)]
fn reject(thread: Thread, sock: u64) {
    if let Some(slot) = REJECTED.get_ptr_mut(thread.number()) {
        // SAFETY: a live map value; a word is written whole.
        unsafe { slot.write_volatile(sock) };
    }
}

/// Returns true if the thread is in a call on this socket that gets no record.
#[inline(always)]
fn is_rejected(thread: Thread, sock: u64) -> bool {
    let slot = REJECTED.get_ptr(thread.number());
    // SAFETY: a live map value; a word is written whole.
    slot.is_some_and(|slot| unsafe { slot.read_volatile() } == sock)
}

/// Ends the call of the thread that gets no record.
#[inline(always)]
fn admit(thread: Thread) {
    reject(thread, 0);
}
