//! The parts of a connect() that a run asks for by `--phases`: time before the port search, time off the CPU, and waits
//! for locks. A call in the hash map `IN_FLIGHT` has no place, and gets a record without parts.
//!
//! Hooks: `sched_switch`, `contention_begin`, `contention_end`.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel},
};
use connect_trace_common::{ConnectRecord, PhasedRecord, PhasesInFlight, phases::Waits};

use crate::{
    connect,
    in_flight::Thread,
    maps::{PHASES, RECORDS},
    params::param,
};

/// Returns the parts of a thread's call; `None` for a call without a place. Looks the call up again, so that a run
/// without `--phases` keeps nothing in registers for this.
#[inline(always)]
fn of(thread: Thread) -> Option<&'static mut PhasesInFlight> {
    let parts = PHASES.get_ptr_mut(thread.call()?.place)?;
    // SAFETY: a live map value, which only programs that run for the thread of the call use.
    Some(unsafe { &mut *parts })
}

/// Returns the parts of the running thread's call.
#[inline(always)]
fn current() -> Option<&'static mut PhasesInFlight> {
    of(Thread::current())
}

/// Begins a call, whose start has been read from the clock.
#[inline(always)]
pub fn begin() {
    if let Some(parts) = current() {
        *parts = PhasesInFlight::default();
        enter(parts, PhasesInFlight::ELSEWHERE);
    }
}

/// Handles the entry of a search, in a call that began at `start_ns`; returns its time.
#[inline(always)]
pub fn search_entered(start_ns: u64, death_row: u64) -> u64 {
    enter_part(PhasesInFlight::BETWEEN);
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(parts) = current() {
        parts.death_row = death_row;
        parts.phases.before_search_ns = now - start_ns;
        enter(parts, PhasesInFlight::IN_SEARCH);
    }
    now
}

/// Handles the return of a search; returns its time.
#[inline(always)]
pub fn search_returned() -> u64 {
    enter_part(PhasesInFlight::BETWEEN);
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    enter_part(PhasesInFlight::ELSEWHERE);
    now
}

/// Enters a part of a call. Volatile, so that a context switch sees the parts in this order.
#[inline(always)]
pub fn enter_part(part: u64) {
    if let Some(parts) = current() {
        enter(parts, part);
    }
}

#[inline(always)]
fn enter(parts: &mut PhasesInFlight, part: u64) {
    // SAFETY: an aligned word of a live map value.
    unsafe { (&raw mut parts.part).write_volatile(part) };
}

/// Writes a record with its parts into the ring buffer; returns false if there is no room.
#[inline(always)]
pub fn output(record: &ConnectRecord) -> bool {
    let Some(parts) = current() else {
        return connect::output(record);
    };
    let Some(mut entry) = RECORDS.reserve_untyped::<PhasedRecord>(0) else {
        return false;
    };
    entry.write(PhasedRecord {
        record: *record,
        phases: parts.phases,
    });
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

/// Returns the waits of the present part; `None` between parts.
#[inline(always)]
fn waits(parts: &mut PhasesInFlight) -> Option<&mut Waits> {
    match parts.part {
        PhasesInFlight::IN_SEARCH => Some(&mut parts.phases.in_search),
        PhasesInFlight::ELSEWHERE => Some(&mut parts.phases.elsewhere),
        _ => None,
    }
}

/// Handles a context switch from the running thread to `next`; `preempted` says that the running thread could go on.
#[inline(always)]
pub fn switched(preempted: bool, next: u64) {
    if let Some(parts) = current() {
        parts.was_runnable = u64::from(preempted);
        // SAFETY: a helper without preconditions.
        parts.switched_out_ns = unsafe { bpf_ktime_get_ns() };
    }
    let Some(parts) = of(Thread::of(next)) else {
        return;
    };
    let out_ns = parts.switched_out_ns;
    parts.switched_out_ns = 0;
    // Sleep within a wait for a lock is part of that wait.
    if out_ns == 0 || parts.lock != 0 {
        return;
    }
    // SAFETY: a helper without preconditions.
    let off_cpu_ns = unsafe { bpf_ktime_get_ns() } - out_ns;
    let runnable = parts.was_runnable != 0;
    let Some(waits) = waits(parts) else {
        return;
    };
    if runnable {
        waits.preempted_ns += off_cpu_ns;
    } else {
        waits.blocked_ns += off_cpu_ns;
    }
}

/// Handles the beginning of a wait for a lock.
#[inline(always)]
pub fn lock_wait_begins(lock: u64) {
    // A wait of an interrupt handler on top of a wait of the thread is part of the latter.
    if let Some(parts) = current()
        && parts.lock == 0
    {
        parts.lock = lock;
        // SAFETY: a helper without preconditions.
        parts.lock_since_ns = unsafe { bpf_ktime_get_ns() };
    }
}

/// Handles the end of a wait for a lock.
#[inline(always)]
pub fn lock_wait_ends(lock: u64) {
    let Some(parts) = current() else {
        return;
    };
    if parts.lock != lock || lock == 0 {
        return;
    }
    parts.lock = 0;
    // SAFETY: a helper without preconditions.
    let waited_ns = unsafe { bpf_ktime_get_ns() } - parts.lock_since_ns;
    let table = match parts.part {
        PhasesInFlight::IN_SEARCH => Table::of(lock, parts.death_row),
        _ => None,
    };
    match table {
        Some(Table::Bhash) => parts.phases.bhash_ns += waited_ns,
        Some(Table::Bhash2) => parts.phases.bhash2_ns += waited_ns,
        Some(Table::Ehash) => parts.phases.ehash_ns += waited_ns,
        None => {
            if let Some(waits) = waits(parts) {
                waits.other_lock_ns += waited_ns;
            }
        }
    }
}

/// A table of ports or of connections, whose buckets have locks.
enum Table {
    Bhash,
    Bhash2,
    Ehash,
}

impl Table {
    /// Returns the table that a lock belongs to, by its address; `death_row` is that of the search.
    #[inline(always)]
    fn of(lock: u64, death_row: u64) -> Option<Self> {
        let tables: u64 = read(death_row + param!(death_row_hashinfo))?;
        let buckets: u32 = read(tables + param!(hashinfo_bhash_size))?;
        let bind_bytes = u64::from(buckets) * param!(bind_bucket_bytes);
        // An address below the table wraps around, and is above its end.
        let is_in = |table: u64, bytes: u64| lock.wrapping_sub(table) < bytes;
        if is_in(read(tables + param!(hashinfo_bhash))?, bind_bytes) {
            return Some(Self::Bhash);
        }
        if is_in(read(tables + param!(hashinfo_bhash2))?, bind_bytes) {
            return Some(Self::Bhash2);
        }
        let mask: u32 = read(tables + param!(hashinfo_ehash_locks_mask))?;
        let ehash_bytes = (u64::from(mask) + 1) * param!(spinlock_bytes);
        is_in(read(tables + param!(hashinfo_ehash_locks))?, ehash_bytes).then_some(Self::Ehash)
    }
}

/// Reads a value of the kernel.
#[inline(always)]
fn read<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}
