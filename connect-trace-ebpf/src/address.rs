//! The address passed to connect(), and the address that the kernel connects to, which differs from it if the passed
//! one is unspecified.

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::{
    connect::Function,
    sock::{AF_INET, AF_INET6, Memory, Sock},
};

/// Third word of a v4-mapped address.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// A `struct sockaddr *` to the kernel's own copy of the passed address.
#[derive(Clone, Copy)]
pub struct Address(pub *const u8);

/// An IPv6 address, or an IPv4 address in v4-mapped form, in network order.
#[derive(Clone, Copy)]
pub struct Destination(pub [u32; 4]);

impl Destination {
    /// Returns the IPv4 address, or `None` if it is an IPv6 address.
    #[inline(always)]
    pub fn v4(self) -> Option<u32> {
        let [a, b, mapped, v4] = self.0;
        (a == 0 && b == 0 && mapped == MAPPED).then_some(v4)
    }
}

impl Address {
    /// Returns `sa_family`.
    #[inline(always)]
    pub fn family(self) -> u16 {
        self.read(0)
    }

    /// Returns true if the address has the family that `function` takes.
    #[inline(always)]
    pub fn is_for(self, function: Function) -> bool {
        let family = self.family();
        match function {
            Function::V4 => family == AF_INET,
            Function::V6 => family == AF_INET6,
        }
    }

    /// Returns the port in host order.
    #[inline(always)]
    pub fn port(self) -> u16 {
        /// Offset of the port in `struct sockaddr_in` and `struct sockaddr_in6`.
        const PORT: usize = 2;
        u16::from_be(self.read(PORT))
    }

    /// Returns the address that the kernel will connect to. The kernel replaces the unspecified address: in IPv6 with
    /// loopback (`tcp_v6_connect`), in IPv4 with the socket's own address, or with loopback if the socket is not bound
    /// (`ip_route_output_key_hash_rcu`; the address of a device that the socket is bound to is not known here).
    #[inline(always)]
    pub fn destination<M: Memory>(self, function: Function, sock: Sock<M>) -> Destination {
        /// Offsets of `sin_addr` in `struct sockaddr_in` and of `sin6_addr` in `struct sockaddr_in6`.
        const V4_ADDRESS: usize = 4;
        const V6_ADDRESS: usize = 8;
        const V4_LOOPBACK: u32 = 0x7f00_0001_u32.to_be();
        const V6_LOOPBACK: u32 = 1_u32.to_be();
        let mapped = |v4| Destination([0, 0, MAPPED, v4]);
        let passed = match function {
            Function::V4 => mapped(self.read(V4_ADDRESS)),
            Function::V6 => Destination(self.read(V6_ADDRESS)),
        };
        if passed.0[3] != 0 {
            return passed;
        }
        if passed.v4().is_some() {
            let [source, _] = sock.addresses_v4();
            return mapped(if source == 0 { V4_LOOPBACK } else { source });
        }
        if passed.0 != [0; 4] {
            return passed;
        }
        let [source, _] = sock.addresses_v6();
        match Destination(source).v4() {
            Some(_) => mapped(V4_LOOPBACK),
            None => Destination([0, 0, 0, V6_LOOPBACK]),
        }
    }

    /// Reads the value at an offset; returns zeros if the read fails.
    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the helper checks the address; T is plain data for which all zeros is valid.
        unsafe {
            bpf_probe_read_kernel(self.0.wrapping_add(offset).cast::<T>())
                .unwrap_or(core::mem::zeroed())
        }
    }
}
