//! The steps of all methods: the kernel's helpers, with their errors.

use aya_ebpf::{
    bindings::sockaddr,
    helpers::generated::{bpf_bind, bpf_setsockopt},
};

use super::Call;
use crate::{
    address::MAPPED,
    sock::{AF_INET, AF_INET6},
};

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Errno(pub(super) u64);

impl Errno {
    /// `EADDRINUSE`
    pub(super) const ADDRESS_IN_USE: Self = Self(98);

    /// Returns the error of a helper's result.
    #[inline(always)]
    pub(super) fn check(result: i64) -> Result<(), Self> {
        match result {
            0 => Ok(()),
            error => Err(Self(error.wrapping_neg() as u64)),
        }
    }
}

/// `struct sockaddr_in`
#[repr(C)]
struct AddressV4 {
    family: u16,
    port: u16,
    address: u32,
    zero: u64,
}

/// `struct sockaddr_in6`
#[repr(C)]
struct AddressV6 {
    family: u16,
    port: u16,
    flow: u32,
    address: [u32; 4],
    scope: u32,
}

impl Call {
    /// Binds the socket to an address in the form of a route of `family`, and to a port, in host order. Port 0 binds
    /// the address alone: the kernel then chooses a port when it connects.
    #[inline(always)]
    pub(super) fn bind(self, family: u16, address: [u32; 4], port: u16) -> Result<(), Errno> {
        let port = port.to_be();
        if self.family == AF_INET {
            let mut name = AddressV4 {
                family: AF_INET,
                port,
                address: address[0],
                zero: 0,
            };
            return self.bind_name(&mut name);
        }
        let mut name = AddressV6 {
            family: AF_INET6,
            port,
            flow: 0,
            address: if family == AF_INET {
                [0, 0, MAPPED, address[0]]
            } else {
                address
            },
            scope: 0,
        };
        self.bind_name(&mut name)
    }

    #[inline(always)]
    fn bind_name<T>(self, name: &mut T) -> Result<(), Errno> {
        let name: *mut T = name;
        // SAFETY: a whole and initialized `struct sockaddr_in` or `struct sockaddr_in6`, which the helper reads.
        let result = unsafe { bpf_bind(self.ctx, name.cast::<sockaddr>(), size_of::<T>() as i32) };
        Errno::check(result)
    }

    /// Sets an option of the socket.
    #[inline(always)]
    pub(super) fn set_option(self, level: i32, name: i32, value: u32) -> Result<(), Errno> {
        let mut value = value;
        let size = size_of_val(&value) as i32;
        // SAFETY: the helper reads the number.
        let result =
            unsafe { bpf_setsockopt(self.ctx.cast(), level, name, (&raw mut value).cast(), size) };
        Errno::check(result)
    }
}
