//! Reads of a `struct sock`: the same fields, by three ways of reading memory.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};

use connect_trace_common::Field;

use crate::{
    cast::{self, cast},
    params::{has, param},
};

/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;

/// Kernel memory behind a pointer. A failed read returns zeros, and so does a field that the kernel lacks.
pub trait Memory: Copy {
    /// Reads the value that begins at byte `at` of a field.
    fn read_at<T: Copy>(self, field: Field, at: usize) -> T;
    /// Reads the value of a field.
    #[inline(always)]
    fn read<T: Copy>(self, field: Field) -> T {
        self.read_at(field, 0)
    }
    /// Reads two adjacent values of a field: each by its own load, because to the verifier they are separate members.
    #[inline(always)]
    fn pair<T: Copy>(self, field: Field) -> [T; 2] {
        [self.read(field), self.read_at(field, size_of::<T>())]
    }
    /// Reads the first sixteen bytes of a field.
    #[inline(always)]
    fn words(self, field: Field) -> [u32; 4] {
        [
            self.read(field),
            self.read_at(field, 4),
            self.read_at(field, 8),
            self.read_at(field, 12),
        ]
    }
    /// Returns the memory that a field, which is a pointer, points to.
    fn follow(self, field: Field) -> Self;
    /// Returns the `struct tcp_sock` that begins with this `struct sock`. Returns `None` if the socket has another
    /// protocol, which only [`Typed`] detects.
    fn as_tcp_sock(self) -> Option<Self>;
    /// Returns the address of the memory.
    fn address(self) -> *const u8;
}

/// A pointer whose type the verifier knows (fentry, fexit); reads are plain loads.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

impl Memory for Typed {
    #[inline(always)]
    fn read_at<T: Copy>(self, field: Field, at: usize) -> T {
        // SAFETY: the daemon replaces the stand-in with the offset, or the load with a zero; the verifier checks the
        // load against the BTF type of the argument; a fault reads zeros. The load is volatile, so that the compiler
        // does not merge two loads into one that spans two members.
        unsafe {
            self.0
                .wrapping_add(field.stand_in(at))
                .cast::<T>()
                .read_volatile()
        }
    }

    #[inline(always)]
    fn follow(self, field: Field) -> Self {
        Self(self.read(field))
    }

    /// Calls the kernel's helper: the verifier rejects loads beyond the members of `struct sock`.
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

/// A pointer that was cast to its type; reads are plain loads too, and a load that faults reads zeros.
#[derive(Clone, Copy)]
pub struct Cast(*const u8);

impl Cast {
    /// Returns the `struct sock` at an address (kprobe, kretprobe). Requires [`crate::cast::is_possible`].
    #[inline(always)]
    pub fn sock(address: *const u8) -> Self {
        Self(cast(address, param!(sock)))
    }
}

impl Memory for Cast {
    #[inline(always)]
    fn read_at<T: Copy>(self, field: Field, at: usize) -> T {
        Typed(self.0).read_at(field, at)
    }

    #[inline(always)]
    fn follow(self, field: Field) -> Self {
        Self(self.read(field))
    }

    #[inline(always)]
    fn as_tcp_sock(self) -> Option<Self> {
        Some(Self(cast(self.0, param!(inet_sock))))
    }

    #[inline(always)]
    fn address(self) -> *const u8 {
        self.0
    }
}

/// A pointer that is only a number to the verifier (kprobe, kretprobe); reads call a helper.
#[derive(Clone, Copy)]
pub struct Untyped(pub *const u8);

impl Memory for Untyped {
    #[inline(always)]
    fn read_at<T: Copy>(self, field: Field, at: usize) -> T {
        // SAFETY: T is plain data for which all zeros is valid.
        let zeros = unsafe { core::mem::zeroed() };
        if !has(field) {
            return zeros;
        }
        let address = self.0.wrapping_add(field.stand_in(at)).cast::<T>();
        // SAFETY: the helper checks the address; the daemon replaces the stand-in in it with the offset.
        unsafe { bpf_probe_read_kernel(address) }.unwrap_or(zeros)
    }

    #[inline(always)]
    fn pair<T: Copy>(self, field: Field) -> [T; 2] {
        self.read(field)
    }

    #[inline(always)]
    fn words(self, field: Field) -> [u32; 4] {
        self.read(field)
    }

    #[inline(always)]
    fn follow(self, field: Field) -> Self {
        Self(self.read(field))
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

/// A `struct socket *`.
#[derive(Clone, Copy)]
pub struct Socket<M>(pub M);

impl<M: Memory> Socket<M> {
    /// Returns `sk`.
    #[inline(always)]
    pub fn sock(self) -> Sock<M> {
        Sock(self.0.follow(Field::SocketSock))
    }
}

/// A `struct sock *`.
#[derive(Clone, Copy)]
pub struct Sock<M>(pub M);

impl<M: Memory> Sock<M> {
    /// Returns `skc_num`: the source port in host order, 0 if the socket has none.
    #[inline(always)]
    pub fn source_port(self) -> u16 {
        self.0.read(Field::SockSourcePort)
    }

    /// Returns `skc_num` and `skc_dport`: source and destination port, both in host order.
    #[inline(always)]
    pub fn ports(self) -> [u16; 2] {
        let [destination, source] = halves(self.0.read(Field::SockPorts));
        [source, u16::from_be(destination)]
    }

    /// Returns `skc_family`.
    #[inline(always)]
    pub fn family(self) -> u16 {
        self.0.read(Field::SockFamily)
    }

    /// Returns the byte of `sk_userlocks`; 0 if it is not known.
    #[inline(always)]
    pub fn user_locks(self) -> u8 {
        self.0.read(Field::SockUserLocks)
    }

    /// Returns the byte of `sk_kern_sock`; 0 if it is not known, or if it is the byte of
    /// [`user_locks`](Self::user_locks).
    #[inline(always)]
    pub fn kernel_sock(self) -> u8 {
        self.0.read(Field::SockKernel)
    }

    /// Returns `sk_type` and `sk_protocol`.
    #[inline(always)]
    pub fn type_and_protocol(self) -> [u16; 2] {
        [
            self.0.read(Field::SockType),
            self.0.read(Field::SockProtocol),
        ]
    }

    /// Returns the address of the socket, which no other socket has as long as it exists.
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0.address() as u64
    }

    /// Returns source and destination address as IPv4, in network order.
    #[inline(always)]
    pub fn addresses_v4(self) -> [u32; 2] {
        let pair: u64 = self.0.read(Field::SockAddresses);
        // In memory, the destination comes first.
        let bytes = pair.to_ne_bytes();
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        [word(4), word(0)]
    }

    /// Returns source and destination address as IPv6, in network order; zeros on a kernel without IPv6.
    #[inline(always)]
    pub fn addresses_v6(self) -> [[u32; 4]; 2] {
        [
            self.0.words(Field::SockV6Source),
            self.0.words(Field::SockV6Destination),
        ]
    }

    /// Returns the socket's `struct net`, which reads as zeros if the kernel has no network namespaces.
    #[inline(always)]
    pub fn net(self) -> Net<M> {
        Net(self.0.follow(Field::SockNet))
    }

    /// Returns `inet_sock.local_port_range` as low and high; zeros if the kernel lacks it or it is unset.
    #[inline(always)]
    pub fn local_port_range(self) -> [u16; 2] {
        let Some(sock) = self.0.as_tcp_sock() else {
            return [0; 2];
        };
        Sock(sock).local_port_range_of_tcp()
    }

    /// Returns the same of a `struct tcp_sock`, as [`Memory::as_tcp_sock`] gives it.
    #[inline(always)]
    pub fn local_port_range_of_tcp(self) -> [u16; 2] {
        if param!(inet_port_range_is_pair) != 0 {
            return self.0.pair(Field::InetPortRange);
        }
        halves(self.0.read(Field::InetPortRange))
    }

    /// Returns the same of a UDP socket, to which no helper gives a type: by a cast if the kernel has it, else by the
    /// helper that reads untyped memory.
    #[inline(always)]
    pub fn local_port_range_of_udp(self) -> [u16; 2] {
        let address = self.0.address();
        if cast::is_possible() {
            Sock(Cast::sock(address)).local_port_range()
        } else {
            Sock(Untyped(address)).local_port_range()
        }
    }
}

/// A `struct net *`.
#[derive(Clone, Copy)]
pub struct Net<M>(M);

impl<M: Memory> Net<M> {
    /// Returns `net.ns.inum`: the inode number that `stat -L /proc/PID/ns/net` shows.
    #[inline(always)]
    pub fn inode(self) -> u32 {
        self.0.read(Field::NetInode)
    }

    /// Returns `net.ipv4.ip_local_port_range` as low and high; zeros if it is not known.
    #[inline(always)]
    pub fn port_range(self) -> [u16; 2] {
        if param!(net_port_range_is_pair) != 0 {
            // The array is read by one load: the kernel checks the address of each load, in 5.13 to 6.1 by six
            // instructions.
            let pair: u64 = self.0.read(Field::NetPortRange);
            return [pair as u16, (pair >> 32) as u16];
        }
        halves(self.0.read(Field::NetPortRange))
    }

    /// Returns the bitmap `net.ipv4.sysctl_local_reserved_ports`; 0 if the kernel lacks it, or none is reserved.
    #[inline(always)]
    pub fn reserved_ports(self) -> u64 {
        match param!(reserved_ports) {
            0 => 0,
            // SAFETY: the verifier checks the load against the type of the namespace.
            offset => unsafe {
                let place = self.0.address().wrapping_add(offset as usize);
                place.cast::<u64>().read_volatile()
            },
        }
    }

    /// Returns `net.ipv4.ip_local_port_step_width`; 0 if the kernel lacks it.
    #[inline(always)]
    pub fn port_step_width(self) -> u32 {
        self.0.read(Field::NetPortStepWidth)
    }
}

/// Returns the halves of a word, in the order in which they lie in memory.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    // SAFETY: any four bytes are two numbers. Not by bytes or shifts: the compiler would cut the word and join it again.
    unsafe { core::mem::transmute(word) }
}
