//! Where the running kernel keeps what the programs read. The daemon takes it from the kernel's BTF
//! and sets it before loading; to the verifier these are constants, so an absent field costs nothing.
//!
//! Offsets are in bytes from the start of the structure that the name begins with.

use aya_ebpf::Global;

/// An offset that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])*
        #[unsafe(no_mangle)]
        pub static $name: Global<u32> = Global::new(ABSENT);)*
    };
}

offsets! {
    /// `sock.__sk_common.skc_num`
    SOCK_NUM;
    /// `sock.__sk_common.skc_dport`
    SOCK_DPORT;
    /// `sock.__sk_common.skc_family`
    SOCK_FAMILY;
    /// `sock.__sk_common.skc_daddr`
    SOCK_DADDR;
    /// `sock.__sk_common.skc_rcv_saddr`
    SOCK_RCV_SADDR;
    /// `sock.__sk_common.skc_v6_daddr`; absent without IPv6
    SOCK_V6_DADDR;
    /// `sock.__sk_common.skc_v6_rcv_saddr`; absent without IPv6
    SOCK_V6_RCV_SADDR;
    /// `sock.__sk_common.skc_net.net`; absent without network namespaces
    SOCK_NET;
    /// `net.ns.inum`
    NET_INUM;
    /// `net.ipv4.ip_local_ports.range`
    NET_PORT_RANGE;
    /// `task_struct.comm`; absent, as the next two, where there is no helper `bpf_get_current_task_btf`
    TASK_COMM;
    /// `task_struct.cred`
    TASK_CRED;
    /// `cred.uid`
    CRED_UID;
    /// `task_struct.tgid`; only read to follow children
    TASK_TGID;
    /// `task_struct.signal`
    TASK_SIGNAL;
    /// `signal_struct.live`
    SIGNAL_LIVE;
    /// The byte of `sock.sk_userlocks`
    SOCK_USERLOCKS;
    /// `net.ipv4.sysctl_ip_local_port_step_width`; absent before 7.1
    NET_PORT_STEP_WIDTH;
    /// `inet_sock.local_port_range`; absent before `IP_LOCAL_PORT_RANGE` (6.3)
    INET_LOCAL_PORT_RANGE;
}

/// Whether `net.ipv4.ip_local_ports.range` is `int[2]` (1, before 6.8) or `high << 16 | low` (0).
#[unsafe(no_mangle)]
pub static NET_PORT_RANGE_IS_PAIR: Global<u32> = Global::new(0);

/// Address of the variable `table_perturb`, a `u32 *`; 0 where it is not known.
#[unsafe(no_mangle)]
pub static TABLE_PERTURB: Global<u64> = Global::new(0);

/// The filters: [`connect_trace_common::FilterBits`].
#[unsafe(no_mangle)]
pub static FILTERS: Global<u32> = Global::new(0);

/// Number of cgroups in the map `CGROUPS`.
#[unsafe(no_mangle)]
pub static CGROUP_COUNT: Global<u32> = Global::new(0);

/// The number of places for calls in flight, a power of two, less one.
#[unsafe(no_mangle)]
pub static PLACE_MASK: Global<u32> = Global::new(16_383);

/// Calls that took less get no record, and are counted in the map `FAST`.
#[unsafe(no_mangle)]
pub static MIN_LATENCY_NS: Global<u64> = Global::new(0);

/// Whether the calls of `__inet{,6}_check_established` are counted for each connect().
#[unsafe(no_mangle)]
pub static COUNT_CHECKS: Global<u32> = Global::new(0);

/// Whether records may be made of some calls alone: [`connect_trace_common::Control::sample_every`].
#[unsafe(no_mangle)]
pub static MAY_SAMPLE: Global<u32> = Global::new(0);
