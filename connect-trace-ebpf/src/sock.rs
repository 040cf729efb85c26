//! Reading a `struct sock`: the same fields, by two ways of reading memory.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};

use crate::layout::{
    ABSENT, INET_LOCAL_PORT_RANGE, NET_INUM, NET_PORT_RANGE, NET_PORT_RANGE_IS_PAIR,
    NET_PORT_STEP_WIDTH, SOCK_DADDR, SOCK_DPORT, SOCK_FAMILY, SOCK_NET, SOCK_NUM, SOCK_RCV_SADDR,
    SOCK_USERLOCKS, SOCK_V6_DADDR, SOCK_V6_RCV_SADDR,
};

/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;

/// Kernel memory behind a pointer; a failed read is all zeros.
pub trait Memory: Copy {
    /// The value at a byte offset. The caller names an offset that the kernel's BTF gave.
    fn read<T: Copy>(self, offset: u32) -> T;
    /// The values at two byte offsets.
    #[inline(always)]
    fn pair<T: Copy>(self, first: u32, second: u32) -> [T; 2] {
        [self.read(first), self.read(second)]
    }
    /// The sixteen bytes at a byte offset.
    #[inline(always)]
    fn words(self, offset: u32) -> [u32; 4] {
        [
            self.read(offset),
            self.read(offset + 4),
            self.read(offset + 8),
            self.read(offset + 12),
        ]
    }
    /// Behind the pointer at a byte offset.
    fn follow(self, offset: u32) -> Self;
    /// Of a `struct sock` the `struct tcp_sock` that it is the beginning of; `None` where it is of another
    /// protocol, as far as this is seen.
    fn as_tcp_sock(self) -> Option<Self>;
    /// The address as a number.
    fn address(self) -> *const u8;
}

/// A pointer whose type the verifier knows (fentry, fexit): read by plain loads.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

impl Memory for Typed {
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks the load against the BTF type of the argument; a fault reads
        // zeros. Volatile, so that no load is merged into one that spans two members.
        unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() }
    }

    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.read::<*const u8>(offset))
    }

    /// For the verifier `struct sock` ends where its members do.
    #[inline(always)]
    fn as_tcp_sock(self) -> Option<Self> {
        // SAFETY: the verifier knows that this is a `struct sock *`.
        let sock = unsafe { generated::bpf_skc_to_tcp_sock(self.0.cast_mut().cast()) };
        (!sock.is_null()).then_some(Self(sock.cast_const().cast()))
    }

    #[inline(always)]
    fn address(self) -> *const u8 {
        self.0
    }
}

/// A pointer that is a mere number to the verifier (kprobe, kretprobe): read by a helper.
#[derive(Clone, Copy)]
pub struct Untyped(pub *const u8);

impl Memory for Untyped {
    #[inline(always)]
    fn read<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the helper checks the address; T is plain data for which all zeros is valid.
        unsafe {
            bpf_probe_read_kernel(self.0.wrapping_add(offset as usize).cast::<T>())
                .unwrap_or(core::mem::zeroed())
        }
    }

    /// One call of the helper where they are neighbours, as addresses and ports are in every kernel.
    #[inline(always)]
    fn pair<T: Copy>(self, first: u32, second: u32) -> [T; 2] {
        if second == first + size_of::<T>() as u32 {
            self.read(first)
        } else {
            [self.read(first), self.read(second)]
        }
    }

    #[inline(always)]
    fn words(self, offset: u32) -> [u32; 4] {
        self.read(offset)
    }

    #[inline(always)]
    fn follow(self, offset: u32) -> Self {
        Self(self.read::<*const u8>(offset))
    }

    #[inline(always)]
    fn as_tcp_sock(self) -> Option<Self> {
        Some(self)
    }

    #[inline(always)]
    fn address(self) -> *const u8 {
        self.0
    }
}

/// A `struct sock *`.
#[derive(Clone, Copy)]
pub struct Sock<M>(pub M);

impl<M: Memory> Sock<M> {
    /// `skc_num`: the source port in host order, 0 where the socket has none.
    #[inline(always)]
    pub fn source_port(self) -> u16 {
        self.0.read(SOCK_NUM.load())
    }

    /// The source port, as above, and `skc_dport`, in host order.
    #[inline(always)]
    pub fn ports(self) -> [u16; 2] {
        let [destination, source] = self.0.pair(SOCK_DPORT.load(), SOCK_NUM.load());
        [source, u16::from_be(destination)]
    }

    /// `skc_family`
    #[inline(always)]
    pub fn family(self) -> u16 {
        self.0.read(SOCK_FAMILY.load())
    }

    /// The byte of `sk_userlocks`; 0 where it is not known.
    #[inline(always)]
    pub fn user_locks(self) -> u8 {
        match SOCK_USERLOCKS.load() {
            ABSENT => 0,
            offset => self.0.read(offset),
        }
    }

    /// Source and destination address as IPv4, in network order.
    #[inline(always)]
    pub fn addresses_v4(self) -> [u32; 2] {
        let [destination, source] = self.0.pair(SOCK_DADDR.load(), SOCK_RCV_SADDR.load());
        [source, destination]
    }

    /// Source and destination address as IPv6, in network order; zeros on a kernel without IPv6.
    #[inline(always)]
    pub fn addresses_v6(self) -> [[u32; 4]; 2] {
        let offsets = [SOCK_V6_RCV_SADDR.load(), SOCK_V6_DADDR.load()];
        if offsets[0] == ABSENT || offsets[1] == ABSENT {
            return [[0; 4]; 2];
        }
        [self.0.words(offsets[0]), self.0.words(offsets[1])]
    }

    /// The socket's `struct net`, where the kernel has namespaces.
    #[inline(always)]
    pub fn net(self) -> Option<Net<M>> {
        let offset = SOCK_NET.load();
        (offset != ABSENT).then(|| Net(self.0.follow(offset)))
    }

    /// `inet_sock.local_port_range` as low and high; zeros where the kernel lacks it or it is unset.
    ///
    /// The two layouts, `struct { u16 lo, hi }` and `u32 = hi << 16 | lo`, are the same bytes.
    #[inline(always)]
    pub fn local_port_range(self) -> [u16; 2] {
        let offset = INET_LOCAL_PORT_RANGE.load();
        if offset == ABSENT {
            return [0; 2];
        }
        self.0
            .as_tcp_sock()
            .map_or([0; 2], |sock| sock.pair(offset, offset + 2))
    }
}

/// A `struct net *`.
#[derive(Clone, Copy)]
pub struct Net<M>(M);

impl<M: Memory> Net<M> {
    /// `net.ns.inum`: what `stat /proc/PID/ns/net` shows.
    #[inline(always)]
    pub fn inode(self) -> u32 {
        self.0.read(NET_INUM.load())
    }

    /// `net.ipv4.ip_local_port_range` as low and high; zeros where it is not known.
    #[inline(always)]
    pub fn port_range(self) -> [u16; 2] {
        let offset = NET_PORT_RANGE.load();
        if offset == ABSENT {
            return [0; 2];
        }
        if NET_PORT_RANGE_IS_PAIR.load() != 0 {
            let [low, high]: [u32; 2] = self.0.pair(offset, offset + 4);
            return [low as u16, high as u16];
        }
        let range: u32 = self.0.read(offset);
        [range as u16, (range >> 16) as u16]
    }

    /// `net.ipv4.ip_local_port_step_width`: 0 where the kernel has it not.
    #[inline(always)]
    pub fn port_step_width(self) -> u32 {
        match NET_PORT_STEP_WIDTH.load() {
            ABSENT => 0,
            offset => self.0.read(offset),
        }
    }
}
