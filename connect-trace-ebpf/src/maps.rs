//! The maps, all with BTF, so that bpftool can print them, and the counters, which it prints as bytes. The daemon sets the sizes that depend on
//! options before it loads the object.

use aya_ebpf::{
    btf_maps::{Array, CgroupArray, HashMap, LpmTrie, PerCpuArray, RingBuf},
    helpers::bpf_get_smp_processor_id,
    macros::btf_map,
};
use connect_trace_common::{
    CheckEstablished, ConnectRecord, Control, Counters, FastGroup, InFlight,
    counters::{COPIES, CpuCounters},
    filter::MOST_CGROUPS,
    record::PLACES,
};

/// Records on their way to the daemon.
#[btf_map]
pub static RECORDS: RingBuf<ConnectRecord, { 8 << 20 }> = RingBuf::new();

/// The threads that have a place, by its number; see `in_flight.rs`.
#[btf_map]
pub static OWNERS: HashMap<u32, u64, PLACES> = HashMap::new();

/// Calls in flight of threads that have none, by thread.
#[btf_map]
pub static IN_FLIGHT: HashMap<u64, InFlight, 16_384> = HashMap::new();

/// The traced processes; one that has ended is taken out.
#[btf_map]
pub static PIDS: HashMap<u32, u8, 1024> = HashMap::new();

/// The traced users.
#[btf_map]
pub static UIDS: HashMap<u32, u8, 1> = HashMap::new();

/// The traced names of threads.
#[btf_map]
pub static COMMS: HashMap<[u8; 16], u8, 1> = HashMap::new();

/// The traced network namespaces, by inode number.
#[btf_map]
pub static NETNS: HashMap<u32, u8, 1> = HashMap::new();

/// A bit for each destination port: bit `port % 64` of word `port / 64`.
#[btf_map]
pub static DPORTS: Array<u64, 1024> = Array::new();

/// The traced destinations: prefixes of addresses, IPv4 v4-mapped, in network order.
#[btf_map]
pub static DADDRS: LpmTrie<[u8; 16], u8, 1> = LpmTrie::new();

/// The traced cgroups.
#[btf_map]
pub static CGROUPS: CgroupArray<MOST_CGROUPS> = CgroupArray::new();

/// The calls that get no record because they were fast.
#[btf_map]
pub static FAST: PerCpuArray<FastGroup, { FastGroup::GROUPS as usize }> = PerCpuArray::new();

/// `__inet_check_established` (0) and `__inet6_check_established` (1).
#[btf_map]
pub static CHECKS: PerCpuArray<CheckEstablished, 2> = PerCpuArray::new();

/// The call of `__inet{,6}_check_established` that runs on this CPU.
#[btf_map]
pub static CHECK_RUNNING: PerCpuArray<CheckRunning, 1> = PerCpuArray::new();

/// Written by the daemon.
#[btf_map]
pub static CONTROL: Array<Control, 1> = Array::new();

/// A call of `__inet{,6}_check_established` that has not returned.
#[repr(C)]
pub struct CheckRunning {
    /// The calling thread: a return that finds another one here was preempted by it, or has migrated.
    pub thread: u64,
    /// When it was entered.
    pub start_ns: u64,
}

/// What the identity of the report is made of, by CPU, as a variable and no map of its own: finding a
/// counter is a few instructions then.
#[unsafe(link_section = ".bss.counters")]
static mut COUNTERS: [CpuCounters; COPIES] = [CpuCounters::ZERO; COPIES];

/// The counters of this CPU.
#[inline(always)]
pub fn counters() -> *mut Counters {
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as usize;
    // SAFETY: within the array.
    unsafe { &raw mut (*(&raw mut COUNTERS).cast::<CpuCounters>().add(cpu % COPIES)).counters }
}

/// This CPU's counter, by its name in [`Counters`].
macro_rules! counter {
    ($name:ident) => {
        // SAFETY: a live map value.
        unsafe { &raw mut (*$crate::maps::counters()).$name }
    };
}
pub(crate) use counter;

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: *mut u64) {
    add(counter, 1);
}

/// Adds to a word of a map. Atomic, because on a preemptible kernel another thread may run the same
/// program on the same CPU in the middle of an addition.
#[inline(always)]
pub fn add(word: *mut u64, value: u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // An intrinsic, because the target has no compare-and-swap and so no `AtomicU64::fetch_add`.
    // SAFETY: `word` points into a live, aligned map value; every writer in the kernel uses this.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, value) };
}
