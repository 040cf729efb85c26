//! A socket of the workload, with the options that std lacks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use libc::{c_int, socklen_t};
use socket2::{Domain, SockAddr, Type};

use super::plan::Protocol;

/// `IP_LOCAL_PORT_RANGE` of linux/in.h: highest port << 16 | lowest port.
pub(crate) const IP_LOCAL_PORT_RANGE: c_int = 51;

/// A socket that is not connected yet.
pub(super) struct Socket {
    inner: socket2::Socket,
    v6: bool,
}

impl Socket {
    pub(super) fn open(protocol: Protocol, v6: bool) -> io::Result<Self> {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let (kind, protocol) = match protocol {
            Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
            Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
            Protocol::UdpLite => (Type::DGRAM, libc::IPPROTO_UDPLITE.into()),
        };
        let inner = socket2::Socket::new(domain, kind, Some(protocol))?;
        Ok(Self { inner, v6 })
    }

    /// Sets an option. Options of `IPPROTO_IP` decide how ports are chosen for IPv6 sockets too.
    pub(super) fn set(&self, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
        set_option(&self.inner, level, option, value)
    }

    /// Narrows the ports that connect() and bind() choose from.
    pub(super) fn set_port_range(&self, low: u16, high: u16) -> io::Result<()> {
        let both = u32::from(high) << 16 | u32::from(low);
        self.set(libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, both.cast_signed())
    }

    pub(super) fn bind(&self, to: &SockAddr) -> io::Result<()> {
        self.inner.bind(to)
    }

    pub(super) fn connect(&self, to: &SockAddr) -> io::Result<()> {
        self.inner.connect(to)
    }

    pub(super) fn listen(&self, backlog: c_int) -> io::Result<()> {
        self.inner.listen(backlog)
    }

    /// Lets several listeners share one port.
    pub(super) fn share_port(&self) -> io::Result<()> {
        self.inner.set_reuse_port(true)
    }

    pub(super) fn never_block(&self) -> io::Result<()> {
        self.inner.set_nonblocking(true)
    }

    /// Waits for the result of a connect() that did not block, and returns it.
    pub(super) fn answer(&self, longest: Duration) -> io::Result<()> {
        let mut wanted = libc::pollfd {
            fd: self.inner.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: the pointer is that of one pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut wanted, 1, longest.as_millis() as c_int) };
        match ready {
            0 => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            1.. => self.inner.take_error()?.map_or(Ok(()), Err),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the local address, by getsockname().
    pub(super) fn local(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.inner.local_addr()?.as_socket())
    }

    /// The unspecified address of the socket's family.
    pub(super) fn unspecified(&self) -> IpAddr {
        if self.v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        }
    }

    /// Returns the inner socket.
    pub(super) fn into_inner(self) -> socket2::Socket {
        self.inner
    }
}

/// Returns the address in the form that the kernel takes.
pub(super) fn raw(address: IpAddr, port: u16) -> SockAddr {
    SocketAddr::new(address, port).into()
}

/// Sets an option that is a number.
///
/// # Errors
/// See setsockopt(2).
pub(crate) fn set_option(
    socket: &socket2::Socket,
    level: c_int,
    option: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
