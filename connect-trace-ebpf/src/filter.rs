//! What is traced, decided before any other work: cheap questions first, and a filter that a run does
//! not have is not in the program that the verifier makes of this.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_current_comm, bpf_get_current_uid_gid, bpf_probe_read_kernel},
};
use connect_trace_common::{FilterBits, filter::MOST_CGROUPS};

use crate::{
    connect::Function,
    layout::{CGROUP_COUNT, FILTERS, HAS_ONLY_PROCESS},
    maps::{CGROUPS, COMMS, DADDRS, DPORTS, NETNS, PIDS, UIDS},
    sock::{Memory, Sock},
};

/// The filters of this run.
#[inline(always)]
pub fn filters() -> FilterBits {
    FilterBits(FILTERS.load())
}

/// The one process that is traced, 0 when it has ended; where there may be others, the map `PIDS` has them. In a
/// section of its own, so that the daemon can write to it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.process")]
static mut ONLY_PROCESS: u32 = 0;

/// Whether calls of this thread's process are traced.
#[inline(always)]
pub fn wants_process(pid_tgid: u64) -> bool {
    if !filters().any(FilterBits::PIDS) {
        return true;
    }
    let pid = (pid_tgid >> 32) as u32;
    if HAS_ONLY_PROCESS.load() != 0 {
        // SAFETY: an aligned word of our own.
        return pid == unsafe { (&raw const ONLY_PROCESS).read_volatile() };
    }
    PIDS.get_ptr(&pid).is_some()
}

/// Takes a process that ends out of those that are traced.
#[inline(always)]
pub fn forget_process(pid: u32) {
    let _ = PIDS.remove(&pid);
    // SAFETY: as above; the process that it is does not begin again.
    unsafe {
        if (&raw const ONLY_PROCESS).read_volatile() == pid {
            (&raw mut ONLY_PROCESS).write_volatile(0);
        }
    }
}

/// Whether this call of a traced process is traced. `address` is the `struct sockaddr *` that it was
/// given.
#[inline(always)]
pub fn wants_call<M: Memory>(function: Function, sock: Sock<M>, address: *const u8) -> bool {
    let filters = filters();
    if filters.any(FilterBits::UIDS) {
        let uid = bpf_get_current_uid_gid() as u32;
        if UIDS.get_ptr(&uid).is_none() {
            return false;
        }
    }
    if filters.any(FilterBits::COMMS) {
        let comm = bpf_get_current_comm().unwrap_or([0; 16]);
        if COMMS.get_ptr(&comm).is_none() {
            return false;
        }
    }
    if filters.any(FilterBits::NETNS) {
        let inode = sock.net().inode();
        if NETNS.get_ptr(&inode).is_none() {
            return false;
        }
    }
    if filters.any(FilterBits::DPORTS) && !wants_port(address) {
        return false;
    }
    let of_address = FilterBits(FilterBits::DADDRS.0 | FilterBits::V4.0 | FilterBits::V6.0);
    if filters.any(of_address) && !wants_address(function, sock, address) {
        return false;
    }
    !filters.any(FilterBits::CGROUPS) || wants_cgroup()
}

#[inline(always)]
fn wants_port(address: *const u8) -> bool {
    /// In `struct sockaddr_in` and `struct sockaddr_in6`.
    const PORT: usize = 2;
    let port = u16::from_be(read(address, PORT));
    let word = DPORTS.get_ptr(u32::from(port / 64));
    // SAFETY: a live map value that nobody writes to while the programs run.
    let word = word.map_or(0, |word| unsafe { *word });
    word >> (port % 64) & 1 == 1
}

#[inline(always)]
fn wants_address<M: Memory>(function: Function, sock: Sock<M>, address: *const u8) -> bool {
    let words = destination(function, sock, address);
    let is_v4 = is_mapped(words);
    let filters = filters();
    if filters.any(FilterBits::V4) && !is_v4 || filters.any(FilterBits::V6) && is_v4 {
        return false;
    }
    // SAFETY: both are sixteen bytes of plain data.
    let bytes: [u8; 16] = unsafe { core::mem::transmute(words) };
    !filters.any(FilterBits::DADDRS) || DADDRS.get(&Key::new(128, bytes)).is_some()
}

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

#[inline(always)]
fn is_mapped(words: [u32; 4]) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == MAPPED
}

/// The address that the kernel will connect to, IPv4 v4-mapped. It takes the unspecified one for another: of IPv6 for
/// loopback (`tcp_v6_connect`), of IPv4 for the socket's own, or loopback if that is not bound
/// (`ip_route_output_key_hash_rcu`; the address of a device that the socket is bound to is not known here).
#[inline(always)]
fn destination<M: Memory>(function: Function, sock: Sock<M>, address: *const u8) -> [u32; 4] {
    /// `sin_addr` of `struct sockaddr_in`, `sin6_addr` of `struct sockaddr_in6`.
    const V4_ADDRESS: usize = 4;
    const V6_ADDRESS: usize = 8;
    const V4_LOOPBACK: u32 = 0x7f00_0001_u32.to_be();
    const V6_LOOPBACK: u32 = 1_u32.to_be();
    let words: [u32; 4] = match function {
        Function::V4 => [0, 0, MAPPED, read(address, V4_ADDRESS)],
        Function::V6 => read(address, V6_ADDRESS),
    };
    if words[3] != 0 {
        return words;
    }
    if is_mapped(words) {
        let [source, _] = sock.addresses_v4();
        return [0, 0, MAPPED, if source == 0 { V4_LOOPBACK } else { source }];
    }
    if words != [0; 4] {
        return words;
    }
    let [source, _] = sock.addresses_v6();
    if is_mapped(source) {
        [0, 0, MAPPED, V4_LOOPBACK]
    } else {
        [0, 0, 0, V6_LOOPBACK]
    }
}

#[inline(always)]
fn wants_cgroup() -> bool {
    for index in 0..MOST_CGROUPS as u32 {
        if index >= CGROUP_COUNT.load() {
            return false;
        }
        if CGROUPS.current_task_under_cgroup(index) == Ok(true) {
            return true;
        }
    }
    false
}

/// Of an address that the program passed, which the kernel has copied already; zeros where that fails.
#[inline(always)]
fn read<T: Copy>(address: *const u8, offset: usize) -> T {
    // SAFETY: the helper checks the address; T is plain data for which all zeros is valid.
    unsafe {
        bpf_probe_read_kernel(address.wrapping_add(offset).cast::<T>())
            .unwrap_or(core::mem::zeroed())
    }
}
