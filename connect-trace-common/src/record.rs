//! The record of one connect(), which the eBPF programs write into the ring buffer, and its state before that.

use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::Look;

/// Set of properties of a record, and of its fields that are known. A set of bits, because it crosses the ring buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Flags(pub u16);

impl Flags {
    /// `__inet_hash_connect` was entered: addresses, destination port and ranges are known.
    pub const SEARCH_ENTERED: Self = Self(1);
    /// `__inet_hash_connect` was seen to return: `search_ns` is known.
    pub const SEARCH_TIMED: Self = Self(1 << 1);
    /// An IPv6 socket connected to a v4-mapped address (`tcp_v6_connect` calls `tcp_v4_connect`).
    pub const MAPPED: Self = Self(1 << 2);
    /// The socket had its port before connect(), by bind(): there was no search for a port.
    pub const PORT_BOUND: Self = Self(1 << 3);
    /// `checks` counts every call of `__inet{,6}_check_established` by this connect().
    pub const CHECKS_COUNTED: Self = Self(1 << 4);
    /// `scan_start` is known, and so is `scan_advance` with [`Self::SEARCH_TIMED`].
    pub const SCAN_STARTED: Self = Self(1 << 5);
    /// A kernel thread made the call. Checked only if the socket is a kernel socket.
    pub const KERNEL_THREAD: Self = Self(1 << 6);
    /// Destination address and port are known without [`Self::SEARCH_ENTERED`], from the address passed to connect().
    /// For UDP it is set whenever the destination is known.
    pub const DESTINATION_PASSED: Self = Self(1 << 7);
    /// The search met a candidate port in TIME_WAIT. Set only while `tcp_twsk_unique` is watched.
    pub const TIME_WAIT_MET: Self = Self(1 << 8);

    /// The bits of the protocol: none of them for TCP.
    pub const PROTOCOL: Self = Self(3 << 12);
    /// UDP, in [`Self::PROTOCOL`].
    pub const UDP: Self = Self(1 << 12);
    /// UDP-Lite, in [`Self::PROTOCOL`].
    pub const UDP_LITE: Self = Self(2 << 12);
    /// DCCP, in [`Self::PROTOCOL`].
    pub const DCCP: Self = Self(3 << 12);
    /// The bits of the operation: none of them for connect().
    pub const OPERATION: Self = Self(3 << 14);
    /// bind() to port 0, in [`Self::OPERATION`].
    pub const BIND: Self = Self(1 << 14);
    /// The first send of a socket without a port, in [`Self::OPERATION`].
    pub const SEND: Self = Self(2 << 14);

    /// Returns true if every bit of `other` is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the bits that are in `mask` too.
    #[inline(always)]
    #[must_use]
    pub const fn masked(self, mask: Self) -> Self {
        Self(self.0 & mask.0)
    }

    /// Sets every bit of `other`.
    #[inline(always)]
    pub const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// `TASK_COMM_LEN` in words. The name is kept in words, because bytes would be copied one by one.
pub const COMM_WORDS: usize = 2;

/// The record of one connect() in the ring buffer: first the fields that differ from call to call, then the fields that
/// are mostly the same in the next record ([`ConnectRecord::shared`]).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ConnectRecord {
    /// Time at which `tcp_v4_connect` or `tcp_v6_connect` was entered.
    pub start_ns: u64,
    /// Time spent in `tcp_v4_connect` or `tcp_v6_connect`.
    pub connect_ns: u64,
    /// Time spent in `__inet_hash_connect`; 0 without [`Flags::SEARCH_TIMED`].
    pub search_ns: u64,
    /// Process (thread-group) id in the upper half, thread id in the lower.
    pub pid_tgid: u64,
    /// Name of the calling thread, `task_struct.comm`: its bytes up to the first zero.
    pub comm: [u64; COMM_WORDS],
    /// Real user id of the caller, as the initial user namespace counts (`bpf_get_current_uid_gid`).
    pub uid: u32,
    /// Number of calls of `__inet{,6}_check_established` by this connect() that were seen: all calls with
    /// [`Flags::CHECKS_COUNTED`], else the calls within a burst of watching.
    pub checks: u32,
    /// Start of the search: the slot of `table_perturb` plus the upper half of `port_offset`. The kernel takes the
    /// remainder of this sum by the number of ports. See [`Flags::SCAN_STARTED`].
    pub scan_start: u32,
    /// Distance by which the search moved the slot of `table_perturb` that its start came from; 0 if it is not known:
    /// see [`Look::advance`] and [`Flags::SCAN_STARTED`].
    pub scan_advance: u16,
    /// Source port, `skc_num` when connect() returned; 0 if the socket has none.
    pub source_port: u16,
    /// Cgroup (v2) of the caller, `bpf_get_current_cgroup_id`.
    pub cgroup_id: u64,
    /// Source address in network order: all bytes for IPv6, the first four for IPv4 (v4-mapped too). Not known without
    /// [`Flags::SEARCH_ENTERED`].
    pub source: [u32; 4],
    /// Destination address in the same form; known with [`Flags::DESTINATION_PASSED`] too.
    pub destination: [u32; 4],
    /// Inode number of the socket's network namespace, `net.ns.inum`, if the kernel has network namespaces.
    pub netns: u32,
    /// Return value of `tcp_v4_connect` or `tcp_v6_connect`: 0 or a negative errno.
    pub ret: i32,
    /// Lowest and highest port of `net.ipv4.ip_local_port_range`, if the kernel's types show it; see
    /// [`Flags::SEARCH_ENTERED`].
    pub netns_range: [u16; 2],
    /// Lowest and highest port of the socket's `IP_LOCAL_PORT_RANGE`; 0 if it is not set.
    pub socket_range: [u16; 2],
    /// Destination port; known if the destination address is known.
    pub destination_port: u16,
    /// Address family of the socket: 2 is `AF_INET`, 10 is `AF_INET6`.
    pub family: u16,
    /// Properties of the call, and the fields that are known.
    pub flags: Flags,
    /// The byte of `sk_userlocks` when the search was entered, or when connect() returned if there was no search; 0 if
    /// the kernel's types do not show it.
    pub user_locks: u8,
    /// The byte of `sk_kern_sock` at the same time; 0 if it is the same byte as `user_locks`.
    pub kernel_sock: u8,
}

impl ConnectRecord {
    /// Number of bytes of [`shared`](Self::shared).
    pub const SHARED: usize = size_of::<Self>() - offset_of!(Self, cgroup_id);

    /// Returns the bytes that are mostly the same in the records of one client's calls to one server.
    #[inline(always)]
    #[must_use]
    pub fn shared(&self) -> &[u8; Self::SHARED] {
        let (_, shared) = bytemuck::bytes_of(self).split_at(offset_of!(Self, cgroup_id));
        bytemuck::from_bytes(shared)
    }

    /// Returns the bytes of `sk_userlocks` and of `sk_kern_sock`, the latter above the former.
    #[inline(always)]
    #[must_use]
    pub const fn bits_of_sock(&self) -> u32 {
        self.user_locks as u32 | (self.kernel_sock as u32) << 8
    }
}

/// Number of places for the calls of threads.
pub const PLACES: usize = 16_384;

/// Bit that is set in the word of a thread while no call is in flight. The rest of the word is the address of the
/// thread's `struct task_struct`, which is even.
pub const IDLE: u64 = 1;

/// State of a thread's connect() from its entry to its return.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct InFlight {
    /// 1 if `tcp_v6_connect` was entered first, 0 if `tcp_v4_connect` was.
    pub entered_v6: u64,
    /// The record so far. `search_ns` holds the start of the search until the search returns. A field that no flag
    /// marks as known may have the value of an earlier call.
    pub record: ConnectRecord,
    /// Address of the slot of `table_perturb` that the search starts from.
    pub slot: u64,
    /// The state of that slot when the search was entered.
    pub slot_before: Look,
    /// The `struct sock *`, for probes that do not see the arguments at the return.
    pub sock: u64,
    /// The `struct sockaddr *` that was passed: the kernel's own copy, which lives as long as the call.
    pub address: u64,
    /// 1 if the search was entered and the fields of the socket are yet to be read: see `search_entered`.
    pub unread: u64,
    /// [`crate::Control::checks_epoch`] at the entry.
    pub checks_epoch: u64,
}

impl InFlight {
    /// The state without a call, all zeros.
    pub const EMPTY: Self = bytemuck::zeroed();
}
