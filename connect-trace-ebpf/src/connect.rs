//! The life of one connect(): entered, search entered, search returned, returned. One record leaves
//! at the end; every call that does not end in a record is counted with its reason.
//!
//! Hooks: `tcp_v4_connect`, `tcp_v6_connect`, `__inet_hash_connect`, `sched_process_exit`.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
        bpf_get_current_uid_gid, bpf_get_prandom_u32, bpf_ktime_get_ns,
    },
};
use aya_log_ebpf::warn;
use connect_trace_common::{ConnectRecord, Control, FilterBits, Flags, InFlight};

use crate::{
    fast, filter,
    layout::{COUNT_CHECKS, MAY_SAMPLE, MIN_LATENCY_NS},
    maps::{CONTROL, IN_FLIGHT, RECORDS, add, count, counter},
    scan,
    sock::{AF_INET, AF_INET6, Memory, Sock},
};

/// `-EEXIST`, what an insertion with `BPF_NOEXIST` returns for a key that is there.
const EEXIST: i32 = -17;

/// The function that was entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `tcp_v4_connect`
    V4,
    /// `tcp_v6_connect`
    V6,
}

/// At the entry of `tcp_v4_connect` or `tcp_v6_connect`.
#[inline(always)]
pub fn entered<M: Memory>(
    ctx: &impl EbpfContext,
    function: Function,
    sock: Sock<M>,
    address: *const u8,
) {
    let pid_tgid = bpf_get_current_pid_tgid();
    if !filter::wants_process(pid_tgid) {
        if function == Function::V6 || sock.family() == AF_INET {
            count(counter!(filtered));
        }
        return;
    }
    let family = sock.family();
    // An IPv6 socket never comes to tcp_v4_connect but through tcp_v6_connect: its address is
    // v4-mapped, and the outer call is the record.
    if function == Function::V4 && family != AF_INET {
        if let Some(call) = IN_FLIGHT.get_ptr_mut(&pid_tgid) {
            // SAFETY: a live map value, and only its own thread writes to it.
            unsafe { (*call).record.flags.set(Flags::MAPPED) };
        }
        return;
    }
    if !filter::wants_call(function, sock, address) {
        count(counter!(filtered));
        return;
    }
    if MAY_SAMPLE.load() != 0 && !is_sampled() {
        unsampled(pid_tgid);
        return;
    }

    let mut call = InFlight {
        record: ConnectRecord {
            start_ns: 0,
            connect_ns: 0,
            search_ns: 0,
            cgroup_id: 0,
            source: [0; 16],
            destination: [0; 16],
            comm: [0; 16],
            pid: (pid_tgid >> 32) as u32,
            tid: pid_tgid as u32,
            netns: 0,
            ret: 0,
            checks: 0,
            flags: Flags(0),
            uid: bpf_get_current_uid_gid() as u32,
            netns_range: [0; 2],
            socket_range: [0; 2],
            source_port: 0,
            destination_port: 0,
            family,
            scan_advance: 0,
            scan_start: 0,
        },
        port_offset: 0,
        sock: sock.0.address() as u64,
        watch: watch(),
        entered_v6: u32::from(function == Function::V6),
    };
    if let Some(net) = sock.net() {
        call.record.netns = net.inode();
        call.record.flags.set(Flags::NETNS);
    }
    count(counter!(entered));
    // SAFETY: a helper without preconditions.
    call.record.start_ns = unsafe { bpf_ktime_get_ns() };
    if let Err(error) = IN_FLIGHT.insert(&pid_tgid, &call, u64::from(BPF_NOEXIST)) {
        entered_again(ctx, pid_tgid, &call, error);
    }
}

/// Whether this is the one call of so many that gets a record. By a random number, because every nth call
/// of a CPU would be the same one of a program that connects in turn.
#[inline(always)]
fn is_sampled() -> bool {
    // SAFETY: a live map value; the daemon writes the aligned word as a whole.
    let every = CONTROL.get_ptr(0).map_or(0, |control| unsafe {
        (&raw const (*control).sample_every).read_volatile()
    });
    // A power of two. SAFETY: a helper without preconditions.
    every <= 1 || unsafe { bpf_get_prandom_u32() } & (every - 1) == 0
}

/// A call without a record. Its return must not end an earlier call of the thread whose return was missed.
#[inline(always)]
fn unsampled(pid_tgid: u64) {
    count(counter!(entered));
    count(counter!(unsampled));
    if IN_FLIGHT.get_ptr(&pid_tgid).is_some() && IN_FLIGHT.remove(&pid_tgid).is_ok() {
        count(counter!(return_missed));
    }
}

/// The rare paths of an entry: the thread's last call never returned to us, or the map is full.
#[inline(always)]
fn entered_again(ctx: &impl EbpfContext, pid_tgid: u64, call: &InFlight, error: i32) {
    if error == EEXIST {
        first_on_this_cpu(counter!(return_missed), || {
            warn!(
                ctx,
                "a return was missed: thread {} is in connect() again", pid_tgid as u32
            );
        });
        if IN_FLIGHT.insert(&pid_tgid, call, 0).is_ok() {
            return;
        }
    }
    first_on_this_cpu(counter!(in_flight_full), || {
        warn!(
            ctx,
            "the map of calls in flight is full: a connect() of thread {} is lost", pid_tgid as u32
        );
    });
}

/// Counts a rare event and lets the first one of each CPU be logged: a flood must not cost more.
#[inline(always)]
fn first_on_this_cpu(counter: Option<*mut u64>, log: impl FnOnce()) {
    let Some(counter) = counter else { return };
    // SAFETY: a live map value of this CPU.
    let first = unsafe { counter.read_volatile() } == 0;
    add(counter, 1);
    if first {
        log();
    }
}

/// This thread and its call in flight. There is none for a call that the filters do not want, that began
/// before the probes, or that found the map full and is counted there.
#[inline(always)]
fn in_flight() -> Option<(u64, &'static mut InFlight)> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let call = IN_FLIGHT.get_ptr_mut(&pid_tgid)?;
    // SAFETY: a live map value, and only its own thread uses it, until it removes it.
    Some((pid_tgid, unsafe { &mut *call }))
}

/// `SOCK_BINDADDR_LOCK`
const ADDRESS_LOCK: u8 = 4;
/// `SOCK_BINDPORT_LOCK`
const PORT_LOCK: u8 = 8;

/// At the entry of `__inet_hash_connect`: what a failure would clear is taken here.
#[inline(always)]
pub fn search_entered<M: Memory>(sock: Sock<M>, port_offset: u64) {
    let Some((_, call)) = in_flight() else { return };
    let record = &mut call.record;
    let [source, destination] = if record.family == AF_INET6 && !record.flags.has(Flags::MAPPED) {
        sock.addresses_v6()
    } else {
        sock.addresses_v4()
    };
    record.source = source.bytes();
    record.destination = destination.bytes();
    let [source_port, destination_port] = sock.ports();
    record.destination_port = destination_port;
    record.socket_range = sock.local_port_range();
    if let Some(locks) = sock.user_locks() {
        record.flags.set(Flags::LOCKS);
        if locks & ADDRESS_LOCK != 0 {
            record.flags.set(Flags::ADDRESS_LOCKED);
        }
        if locks & PORT_LOCK != 0 {
            record.flags.set(Flags::PORT_LOCKED);
        }
    }
    let net = sock.net();
    if let Some(range) = net.and_then(|net| net.port_range()) {
        record.netns_range = range;
        record.flags.set(Flags::NETNS_RANGE);
    }
    if source_port != 0 {
        record.flags.set(Flags::PORT_BOUND);
    } else if net.map_or(0, |net| net.port_step_width()) == 0 {
        scan::entered(call, port_offset);
    }
    let record = &mut call.record;
    record.flags.set(Flags::SEARCH_ENTERED);
    // SAFETY: a helper without preconditions.
    record.search_ns = unsafe { bpf_ktime_get_ns() };
}

/// At the return of `__inet_hash_connect`.
#[inline(always)]
pub fn search_returned() {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some((_, call)) = in_flight() else { return };
    let record = &mut call.record;
    if record.flags.has(Flags::SEARCH_ENTERED) {
        record.search_ns = now - record.search_ns;
        record.flags.set(Flags::SEARCH_TIMED);
    }
    scan::returned(call);
}

/// At the return of `tcp_v4_connect` or `tcp_v6_connect`. `sock` makes the socket from the address
/// kept at the entry, or from the probe's own argument.
#[inline(always)]
pub fn returned<M: Memory>(function: Function, ret: i32, sock: impl FnOnce(u64) -> Sock<M>) {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some((pid_tgid, call)) = in_flight() else {
        return;
    };
    if function == Function::V4 && call.entered_v6 != 0 {
        return;
    }
    if filter::filters().any(FilterBits::FAILED) && ret == 0 {
        count(counter!(succeeded));
        let _ = IN_FLIGHT.remove(&pid_tgid);
        return;
    }
    let record = &mut call.record;
    record.connect_ns = now - record.start_ns;
    record.ret = ret;
    record.source_port = sock(call.sock).source_port();
    record.comm = bpf_get_current_comm().unwrap_or([0; 16]);
    // SAFETY: a helper without preconditions.
    record.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    let watch = watch();
    if watch != call.watch || watch % 2 == 1 {
        record.flags.set(Flags::CHECKS_WATCHED);
    }
    if COUNT_CHECKS.load() != 0 && watch == call.watch && Control::sees_every_check(watch) {
        record.flags.set(Flags::CHECKS_COUNTED);
    }
    if record.flags.has(Flags::SEARCH_ENTERED) && !record.flags.has(Flags::SEARCH_TIMED) {
        record.search_ns = 0;
        count(counter!(search_return_missed));
    }
    if record.connect_ns < MIN_LATENCY_NS.load() {
        fast::add_call(record);
        count(counter!(fast));
        let _ = IN_FLIGHT.remove(&pid_tgid);
        return;
    }
    let written = RECORDS
        .output(&*record, u64::from(BPF_RB_NO_WAKEUP))
        .is_ok();
    if written {
        count(counter!(reported));
    } else {
        count(counter!(ring_full));
    }
    let _ = IN_FLIGHT.remove(&pid_tgid);
}

/// At `sched_process_exit`: a thread that ends has no call in flight any more.
#[inline(always)]
pub fn thread_exited(ctx: &impl EbpfContext) {
    let pid_tgid = bpf_get_current_pid_tgid();
    if IN_FLIGHT.remove(&pid_tgid).is_ok() {
        first_on_this_cpu(counter!(return_missed), || {
            warn!(
                ctx,
                "a return was missed: thread {} has ended", pid_tgid as u32
            );
        });
    }
}

/// The daemon's word on whether `__inet{,6}_check_established` is watched.
#[inline(always)]
fn watch() -> u32 {
    // SAFETY: a live map value; the daemon writes the aligned word as a whole.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe {
        (&raw const (*control).watch).read_volatile()
    })
}
