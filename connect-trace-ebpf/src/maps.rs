//! The maps, all with BTF, so that bpftool can print them. The daemon sets the sizes that depend on options before it
//! loads the object.

use aya_ebpf::{
    btf_maps::{Array, CgroupArray, HashMap, LpmTrie, LruHashMap, RingBuf},
    macros::btf_map,
};
use connect_trace_common::{
    ConnectRecord, EndRecord, InFlight, PhasesInFlight, RouteCounts, RouteKey, RouteState,
    filter::CGROUP_PLACES, mitigation::Claim, record::PLACES,
};

/// Records on their way to the daemon.
#[btf_map]
pub static RECORDS: RingBuf<ConnectRecord, { 8 << 20 }> = RingBuf::new();

/// Connections that are followed after their connect(), by the address of the socket; see `ends.rs`.
#[btf_map]
pub static CONNECTIONS: HashMap<u64, EndRecord, 1> = HashMap::new();

/// Records of what became of them, on their way to the daemon.
#[btf_map]
pub static ENDS: RingBuf<EndRecord, 4096> = RingBuf::new();

/// The threads that own a place, by the place's offset; see `in_flight.rs`.
#[btf_map]
pub static OWNERS: HashMap<u32, u64, PLACES> = HashMap::new();

/// Calls in flight of threads that own no place, by thread.
#[btf_map]
pub static IN_FLIGHT: HashMap<u64, InFlight, 16_384> = HashMap::new();

/// The traced processes; a process is removed when it ends.
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

/// The traced destination ports, one bit for each: bit `port % 64` of word `port / 64`.
#[btf_map]
pub static DPORTS: Array<u64, 1024> = Array::new();

/// The traced destinations: prefixes of addresses in network order, IPv4 addresses in v4-mapped form.
#[btf_map]
pub static DADDRS: LpmTrie<[u8; 16], u8, 1> = LpmTrie::new();

/// The traced cgroups.
#[btf_map]
pub static CGROUPS: CgroupArray<CGROUP_PLACES> = CgroupArray::new();

/// The parts of the calls in flight, by the number of the place; one entry if they are not measured.
#[btf_map]
pub static PHASES: Array<PhasesInFlight, PLACES> = Array::new();

/// For each place of a thread the address of the socket whose UDP call gets no record, 0 for none; see `udp.rs`. One
/// entry unless UDP is traced.
#[btf_map]
pub static REJECTED: Array<u64, 1> = Array::new();

/// The destinations that a mitigation knows; one entry unless it is asked for.
#[btf_map]
pub static ROUTES: HashMap<RouteKey, RouteState, 1> = HashMap::new();

/// Counts of each of them.
#[btf_map]
pub static ROUTE_COUNTS: HashMap<RouteKey, RouteCounts, 1> = HashMap::new();

/// Ports that calls were given and may not have connected from yet.
#[btf_map]
pub static CLAIMS: LruHashMap<Claim, u64, 1> = LruHashMap::new();

/// The source addresses of a mitigation in network order; one entry unless it has addresses.
#[btf_map]
pub static SOURCES4: Array<u32, 1> = Array::new();

/// The same of IPv6.
#[btf_map]
pub static SOURCES6: Array<[u32; 4], 1> = Array::new();
