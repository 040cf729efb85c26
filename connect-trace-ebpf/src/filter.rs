//! The filters, applied before any other work, the cheap ones first. The verifier removes the code of filters that a
//! run does not have.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_current_comm, bpf_get_current_uid_gid},
};
use connect_trace_common::{FilterBits, filter::CGROUP_PLACES};

use crate::{
    address::{Address, Destination},
    connect::Function,
    maps::{CGROUPS, COMMS, DADDRS, DPORTS, NETNS, PIDS, UIDS},
    params::{param, setting},
    sock::{Memory, Sock},
};

/// Returns the filters of this run. Those of a service may be other ones at the next call of this function, in the middle
/// of a connect(): the daemon changes them in an order in which a call that both let in passes.
#[inline(always)]
pub fn filters() -> FilterBits {
    FilterBits(setting!(filters) as u32)
}

/// Id of the only traced process, 0 after the process has ended. If more processes can be traced, their ids are in the
/// map `PIDS`. The variable is in a section of its own, so that the daemon can write to it.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".bss.process")]
static mut ONLY_PROCESS: u32 = 0;

/// Returns true if calls of this thread's process are traced.
#[inline(always)]
pub fn wants_process(pid_tgid: u64) -> bool {
    if !filters().any(FilterBits::PIDS) {
        return true;
    }
    let pid = (pid_tgid >> 32) as u32;
    if param!(has_only_process) != 0 {
        // SAFETY: an aligned word of our own.
        return pid == unsafe { (&raw const ONLY_PROCESS).read_volatile() };
    }
    PIDS.get_ptr(&pid).is_some()
}

/// Removes a process that ends from the traced processes.
#[inline(always)]
pub fn forget_process(pid: u32) {
    let _ = PIDS.remove(&pid);
    // SAFETY: as above; a process that has ended does not start again.
    unsafe {
        if (&raw const ONLY_PROCESS).read_volatile() == pid {
            (&raw mut ONLY_PROCESS).write_volatile(0);
        }
    }
}

/// Returns true if this call of a traced process is traced.
#[inline(always)]
pub fn wants_call<M: Memory>(function: Function, sock: Sock<M>, address: Address) -> bool {
    let filters = filters();
    if filters == FilterBits::default() {
        // Most services.
        return true;
    }
    if !wants_caller(sock) {
        return false;
    }
    if filters.any(FilterBits::DPORTS) && !wants_port(address.port()) {
        return false;
    }
    let of_address = FilterBits(FilterBits::DADDRS.0 | FilterBits::V4.0 | FilterBits::V6.0);
    if filters.any(of_address) && !wants_address(address.destination(function, sock)) {
        return false;
    }
    !filters.any(FilterBits::CGROUPS) || wants_cgroup()
}

/// Returns true if this call of a traced process is traced, which has no destination; `is_v4` says if its source is an
/// IPv4 address.
#[inline(always)]
pub fn wants_call_without_destination<M: Memory>(sock: Sock<M>, is_v4: impl Fn() -> bool) -> bool {
    let filters = filters();
    if filters.any(FilterBits(FilterBits::DPORTS.0 | FilterBits::DADDRS.0)) || !wants_caller(sock) {
        return false;
    }
    if filters.any(FilterBits::V4) && !is_v4() || filters.any(FilterBits::V6) && is_v4() {
        return false;
    }
    !filters.any(FilterBits::CGROUPS) || wants_cgroup()
}

/// Returns true if calls of this thread on this socket's namespace are traced.
#[inline(always)]
fn wants_caller<M: Memory>(sock: Sock<M>) -> bool {
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
    true
}

#[inline(always)]
fn wants_port(port: u16) -> bool {
    let word = DPORTS.get_ptr(u32::from(port / 64));
    // SAFETY: a live map value, an aligned word.
    let word = word.map_or(0, |word| unsafe { word.read_volatile() });
    word >> (port % 64) & 1 == 1
}

#[inline(always)]
fn wants_address(destination: Destination) -> bool {
    let is_v4 = destination.v4().is_some();
    let filters = filters();
    if filters.any(FilterBits::V4) && !is_v4 || filters.any(FilterBits::V6) && is_v4 {
        return false;
    }
    // SAFETY: both types are sixteen bytes of plain data.
    let bytes: [u8; 16] = unsafe { core::mem::transmute(destination.0) };
    !filters.any(FilterBits::DADDRS) || DADDRS.get(&Key::new(128, bytes)).is_some()
}

#[inline(always)]
fn wants_cgroup() -> bool {
    for index in 0..CGROUP_PLACES as u32 {
        if u64::from(index) >= setting!(cgroup_count) {
            return false;
        }
        if CGROUPS.current_task_under_cgroup(index) == Ok(true) {
            return true;
        }
    }
    false
}
