//! The life of one connect(): entered, search entered, search returned, returned. At the end, one record is written to
//! the ring buffer; a call without a record is counted by its reason.
//!
//! Hooks: `tcp_v4_connect`, `tcp_v6_connect`, `__inet_hash_connect`, `sched_process_exit`.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns,
    },
};
use aya_log_ebpf::info;
use connect_trace_common::{ConnectRecord, FilterBits, Flags, InFlight, PhasesInFlight};

use crate::{
    address::Address,
    check_established, ends,
    fast::{self, Fields},
    filter,
    in_flight::{Call, Entered, Thread},
    maps::RECORDS,
    params::param,
    phases, scan,
    shared::{control, count, counter},
    sock::{AF_INET, AF_INET6, Memory, Sock},
    task::Task,
};

/// The kernel function that was entered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `tcp_v4_connect`
    V4,
    /// `tcp_v6_connect`
    V6,
}

/// Handles the entry of `tcp_v4_connect` or `tcp_v6_connect`; returns the call in flight if it is to get a record.
#[inline(always)]
pub fn entered<M: Memory>(
    function: Function,
    sock: Sock<M>,
    address: Address,
) -> Option<&'static mut InFlight> {
    // An IPv6 socket reaches tcp_v4_connect only through tcp_v6_connect, if its destination is v4-mapped: the outer
    // call gets the record.
    let is_inner = |family| function == Function::V4 && family != AF_INET;
    if control!(open) == 0 {
        if is_inner(sock.family()) {
            inner_entered();
        } else {
            closed();
        }
        return None;
    }
    if has_options() && !filter::wants_process(bpf_get_current_pid_tgid()) {
        if !is_inner(sock.family()) {
            count(counter!(filtered));
        }
        return None;
    }
    let family = sock.family();
    if is_inner(family) {
        inner_entered();
        return None;
    }
    if has_options() && !filter::wants_call(function, sock, address) {
        count(counter!(filtered));
        without_record(Thread::current());
        return None;
    }
    let call = begin(family)?;
    call.entered_v6 = u64::from(function == Function::V6);
    Some(call)
}

/// Handles the entry of a call that is not looked at.
#[inline(always)]
pub fn closed() {
    // The return of this call comes to the programs of a service, which stay attached.
    if has_options() && param!(service) != 0 {
        without_record(Thread::current());
    }
}

/// Begins a call that the filters let in; returns it if it is to get a record.
#[inline(always)]
pub fn begin(family: u16) -> Option<&'static mut InFlight> {
    count(counter!(entered));
    if has_options() && param!(may_sample) != 0 && !is_sampled() {
        count(counter!(unsampled));
        without_record(Thread::current());
        return None;
    }

    let Some(Entered {
        call,
        return_missed,
    }) = Thread::current().enter()
    else {
        count(counter!(in_flight_full));
        return None;
    };
    if return_missed {
        count(counter!(return_missed));
    }
    let call = call.kept;
    if has_options() && param!(count_checks) != 0 {
        call.checks_epoch = control!(checks_epoch);
    }
    let record = &mut call.record;
    record.pid_tgid = bpf_get_current_pid_tgid();
    record.family = family;
    record.flags = Flags(0);
    record.checks = 0;
    // SAFETY: a helper without preconditions.
    record.start_ns = unsafe { bpf_ktime_get_ns() };
    if has_options() && param!(phases) != 0 {
        phases::begin();
    }
    Some(call)
}

/// Returns true if [`connect_trace_common::Params::has_options`] is set. Each use calls this again: keeping the result
/// takes more instructions.
#[inline(always)]
pub fn has_options() -> bool {
    param!(has_options) != 0
}

/// Handles the entry of `tcp_v4_connect` from within `tcp_v6_connect`.
#[inline(always)]
fn inner_entered() {
    if let Some(call) = Thread::current().call() {
        call.kept.record.flags.set(Flags::MAPPED);
    }
}

/// Returns true if this call is one of the sample that gets records. A random number decides, because every nth call
/// of a CPU would always have the same destination if a program connects to several in turn.
#[inline(always)]
fn is_sampled() -> bool {
    let every = control!(sample_every);
    // `every` is a power of two. SAFETY: a helper without preconditions.
    every <= 1 || u64::from(unsafe { bpf_get_prandom_u32() }) & (every - 1) == 0
}

/// Handles the entry of a call without a record. Ends an earlier call of the thread whose own return was missed, so
/// that the return of this call is not taken for the return of the earlier one.
#[inline(always)]
pub fn without_record(thread: Thread) {
    if let Some(call) = thread.call() {
        call.leave();
        count(counter!(return_missed));
    }
}

/// Handles the entry of `__inet_hash_connect`. Reads the fields of the socket that a failed connect() clears; in a service
/// they are read later, because most calls are fast and need none. `death_row` returns the argument of that name.
#[inline(always)]
pub fn search_entered<M: Memory>(sock: Sock<M>, port_offset: u64, death_row: impl Fn() -> u64) {
    let Some(Call { kept: call, .. }) = Thread::current().call() else {
        return;
    };
    let is_service = has_options() && param!(service) != 0;
    let source_port = if is_service {
        call.unread = 1;
        sock.source_port()
    } else {
        read_fields(&mut call.record, sock)
    };
    let record = &mut call.record;
    // The flags are stored once at the end, because each intermediate store would stay in the program.
    let mut flags = record.flags;
    if source_port != 0 {
        flags.set(Flags::PORT_BOUND);
    } else if sock.net().port_step_width() == 0
        && let Some(slot) = scan::slot(port_offset)
        && let Some(before) = scan::entered(slot)
    {
        flags.set(Flags::SCAN_STARTED);
        record.scan_start = scan::start(before, port_offset);
        call.slot = slot;
        call.slot_before = before;
    }
    flags.set(Flags::SEARCH_ENTERED);
    record.flags = flags;
    record.search_ns = search_entry_ns(record.start_ns, death_row);
}

/// Reads the fields of the socket of a search, and returns the source port.
#[inline(always)]
fn read_fields<M: Memory>(record: &mut ConnectRecord, sock: Sock<M>) -> u16 {
    if record.family == AF_INET6 && !record.flags.has(Flags::MAPPED) {
        [record.source, record.destination] = sock.addresses_v6();
    } else {
        [record.source[0], record.destination[0]] = sock.addresses_v4();
    }
    let [source_port, destination_port] = sock.ports();
    record.destination_port = destination_port;
    record.socket_range = sock.local_port_range();
    record.user_locks = sock.user_locks();
    record.kernel_sock = sock.kernel_sock();
    let net = sock.net();
    record.netns = net.inode();
    record.netns_range = net.port_range();
    source_port
}

/// Reads the fields of the socket of a search in a service, unless they have been read.
#[inline(always)]
fn read_unread<M: Memory>(call: &mut InFlight, sock: Sock<M>) {
    if call.unread != 0 {
        call.unread = 0;
        read_fields(&mut call.record, sock);
    }
}

/// Returns the time of the entry of a search, in a call that began at `start_ns`.
#[inline(always)]
pub fn search_entry_ns(start_ns: u64, death_row: impl Fn() -> u64) -> u64 {
    if has_options() && param!(phases) != 0 {
        phases::search_entered(start_ns, death_row())
    } else {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// Returns the time of the return of a search.
#[inline(always)]
pub fn search_return_ns() -> u64 {
    if has_options() && param!(phases) != 0 {
        phases::search_returned()
    } else {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// Returns the time of the return of a call.
#[inline(always)]
pub fn return_ns() -> u64 {
    if has_options() && param!(phases) != 0 {
        phases::enter_part(PhasesInFlight::BETWEEN);
    }
    // SAFETY: a helper without preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Handles the return of `__inet_hash_connect`. `sock` returns the socket; its argument is the address that the entry kept.
#[inline(always)]
pub fn search_returned<M: Memory>(sock: impl Fn(u64) -> Sock<M>) {
    let Some(Call { kept: call, .. }) = Thread::current().call() else {
        return;
    };
    let now = search_return_ns();
    let record = &mut call.record;
    let flags = record.flags;
    if !flags.has(Flags::SEARCH_ENTERED) {
        return;
    }
    record.search_ns = now - record.search_ns;
    record.flags = Flags(flags.0 | Flags::SEARCH_TIMED.0);
    if flags.has(Flags::SCAN_STARTED) {
        record.scan_advance = scan::returned(call.slot, call.slot_before);
    }
    if has_options() && param!(service) != 0 {
        let sock = sock(call.sock);
        // A search that found no port makes connect() fail, which then clears the fields.
        if flags.has(Flags::PORT_BOUND) || sock.source_port() == 0 {
            read_unread(call, sock);
        }
    }
}

/// A return of `tcp_v4_connect` or `tcp_v6_connect`: the values that its probe sees, or that were kept at the entry.
pub trait Return {
    /// The way in which the socket is read.
    type Memory: Memory;
    /// Returns the return value of the kernel function.
    fn value(&self) -> i32;
    /// Returns the socket; `kept` is its address if the entry kept it.
    fn sock(&self, kept: u64) -> Sock<Self::Memory>;
    /// Returns the `struct sockaddr *` that was passed; `kept` is its address if the entry kept it.
    fn address(&self, kept: u64) -> Address;
}

/// Handles the return of `tcp_v4_connect` or `tcp_v6_connect`.
#[inline(always)]
pub fn returned<R: Return>(function: Function, probe: &R) {
    let Some(in_flight) = Thread::current().call() else {
        return;
    };
    let call = &mut *in_flight.kept;
    if function == Function::V4 && call.entered_v6 != 0 {
        return;
    }
    let now = return_ns();
    if has_options() {
        check_established::connect_returned(&call.record);
    }
    let ret = probe.value();
    if has_options() && filter::filters().any(FilterBits::FAILED) && ret == 0 {
        count(counter!(succeeded));
        in_flight.leave();
        return;
    }
    let record = &mut call.record;
    record.connect_ns = now - record.start_ns;
    record.ret = ret;
    let sock = probe.sock(call.sock);
    record.source_port = sock.source_port();
    // Most calls of a service: they need neither the thread nor its cgroup.
    if has_options()
        && param!(service) != 0
        && record.flags.has(Flags::SEARCH_TIMED)
        && fast::is_fast(record)
    {
        leave_fast(in_flight, Fields::of_sock(sock));
        return;
    }
    if has_options() && param!(service) != 0 {
        read_unread(call, sock);
    }
    let record = &mut call.record;
    let task = Task::current(has_options());
    record.uid = task.uid();
    record.comm = task.comm();
    // SAFETY: a helper without preconditions.
    record.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    let mut flags = record.flags;
    if has_options() && param!(count_checks) != 0 {
        let epoch = control!(checks_epoch);
        if epoch != 0 && epoch == call.checks_epoch {
            flags.set(Flags::CHECKS_COUNTED);
            record.flags = flags;
        }
    }
    if !flags.has(Flags::SEARCH_TIMED) {
        record.search_ns = 0;
        if flags.has(Flags::SEARCH_ENTERED) || ret == 0 {
            // No connect() succeeds without a search.
            count(counter!(search_return_missed));
        }
        if !flags.has(Flags::SEARCH_ENTERED) {
            record.netns = sock.net().inode();
            record.user_locks = sock.user_locks();
            record.kernel_sock = sock.kernel_sock();
            take_passed(record, function, sock, probe.address(call.address));
        }
    }
    let kept = call.sock;
    report(in_flight, task, |record| {
        if param!(ends) != 0 && record.ret == 0 {
            ends::follow(probe.sock(kept).address(), record);
        }
    });
}

/// Writes the record of a call that has returned, unless only slower calls are to get records, and ends the call.
/// In a run with options, `follow` gets the record of each call that is not too fast for one.
#[inline(always)]
pub fn report(in_flight: Call, task: Task, follow: impl FnOnce(&ConnectRecord)) {
    let record = &mut in_flight.kept.record;
    if u64::from(record.bits_of_sock()) & param!(kernel_sock) != 0 && task.is_of_kernel() {
        record.flags.set(Flags::KERNEL_THREAD);
    }
    let written = if has_options() {
        if fast::is_fast(record) {
            let fields = Fields::of_record(record);
            leave_fast(in_flight, fields);
            return;
        }
        follow(record);
        if param!(phases) != 0 {
            phases::output(record)
        } else {
            output(record)
        }
    } else {
        output(record)
    };
    if written {
        count(counter!(reported));
    } else {
        count(counter!(ring_full));
    }
    in_flight.leave();
}

/// Ends a call that gets no record because it is too fast for one.
#[inline(always)]
fn leave_fast(in_flight: Call, fields: Fields) {
    fast::add_call(&in_flight.kept.record, fields);
    count(counter!(fast));
    in_flight.leave();
}

/// Writes a record into the ring buffer; returns false if there is no room.
#[inline(always)]
pub fn output(record: &ConnectRecord) -> bool {
    RECORDS.output(record, u64::from(BPF_RB_NO_WAKEUP)).is_ok()
}

/// Takes the destination of a call without a port search from the passed address, because the socket has none.
#[inline(always)]
fn take_passed<M: Memory>(
    record: &mut ConnectRecord,
    function: Function,
    sock: Sock<M>,
    address: Address,
) {
    /// Error of a call whose address may be too short for the reads below.
    const EINVAL: i32 = 22;
    if record.ret == -EINVAL || !address.is_for(function) {
        return;
    }
    let mut flags = record.flags;
    let destination = address.destination(function, sock);
    match destination.v4() {
        Some(v4) => {
            record.destination[0] = v4;
            // On an IPv6-only socket, connect() fails before tcp_v4_connect, which would have set the flag.
            if function == Function::V6 {
                flags.set(Flags::MAPPED);
            }
        }
        None => record.destination = destination.0,
    }
    record.destination_port = address.port();
    flags.set(Flags::DESTINATION_PASSED);
    record.flags = flags;
}

/// Handles `sched_process_exit`: ends the call in flight of the thread that ends.
#[inline(always)]
pub fn thread_exited(ctx: &impl EbpfContext) {
    if Thread::current().exit() {
        count(counter!(return_missed));
        let thread = bpf_get_current_pid_tgid() as u32;
        info!(ctx, "thread {} has ended in connect()", thread);
    }
}
