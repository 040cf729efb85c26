//! A TCP socket that keeps the state on which a connect()'s truth depends: the bound address and port, and a connect()
//! under way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use libc::{c_int, c_short, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};

use super::record::{Explicit, Family};

/// A TCP socket.
pub(super) struct Socket {
    family: Family,
    /// std's type for any TCP socket, connected or not: it has the calls that need no unsafe.
    stream: TcpStream,
    explicit: Explicit,
    progress: Progress,
}

/// The kernel's `socket.state`: a connect() reaches TCP only from `Unconnected`.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Progress {
    Unconnected,
    Connecting,
    Connected,
}

/// One connect() call as its caller sees it.
pub(super) struct Attempt {
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    /// Answer to the caller: 0 or the errno.
    pub(super) errno: i32,
    /// True if the call reaches tcp_v4_connect or tcp_v6_connect.
    pub(super) reaches_tcp: bool,
}

impl Socket {
    pub(super) fn new(family: Family) -> Result<Self> {
        Self::of_protocol(family, 0)
    }

    /// Opens a socket of TCP or of a protocol that is built on TCP.
    pub(super) fn of_protocol(family: Family, protocol: c_int) -> Result<Self> {
        let domain = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 | Family::Mapped => libc::AF_INET6,
        };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(domain, kind, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("opening a TCP socket of family {family}"));
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            family,
            stream: fd.into(),
            explicit: Explicit::None,
            progress: Progress::Unconnected,
        })
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn explicit(&self) -> Explicit {
        self.explicit
    }

    /// Calls connect(), immediately between the two readings of the clock.
    pub(super) fn connect(&mut self, to: SocketAddr) -> Attempt {
        self.connect_by(to, |fd, to| {
            // SAFETY: `to` is a socket address of the length given, and outlives the call.
            check(unsafe { libc::connect(fd, to.as_ptr(), to.len()) })
        })
    }

    /// Connects in another way than by connect().
    pub(super) fn connect_by(
        &mut self,
        to: SocketAddr,
        call: impl FnOnce(c_int, &RawAddress) -> io::Result<()>,
    ) -> Attempt {
        let reaches_tcp = self.progress == Progress::Unconnected;
        let to = RawAddress::from(to);
        let fd = self.stream.as_raw_fd();
        let start_ns = monotonic_ns();
        let result = call(fd, &to);
        let end_ns = monotonic_ns();
        let errno = result
            .err()
            .and_then(|error| error.raw_os_error())
            .unwrap_or(0);
        self.progress = match errno {
            0 | libc::EISCONN => Progress::Connected,
            libc::EINPROGRESS | libc::EALREADY => Progress::Connecting,
            _ => Progress::Unconnected,
        };
        Attempt {
            start_ns,
            end_ns,
            errno,
            reaches_tcp,
        }
    }

    /// Returns the local address by getsockname().
    pub(super) fn local(&self) -> Result<SocketAddr> {
        self.stream
            .local_addr()
            .context("asking a socket for its local address")
    }

    /// Binds the loopback address and a port.
    pub(super) fn bind_port(&mut self, port: u16) -> Result<()> {
        self.explicit = Explicit::Port;
        let to = SocketAddr::new(loopback(self.family), port);
        self.bind(to).with_context(|| format!("binding {to}"))
    }

    /// Binds the loopback address and the first free port that `wanted` accepts.
    pub(super) fn bind_some_port(
        &mut self,
        ports: RangeInclusive<u16>,
        wanted: impl Fn(u16) -> bool,
    ) -> Result<u16> {
        self.explicit = Explicit::Port;
        let ip = loopback(self.family);
        for port in ports.clone().filter(|port| wanted(*port)) {
            match self.bind(SocketAddr::new(ip, port)) {
                Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => continue,
                bound => bound.with_context(|| format!("binding {ip} port {port}"))?,
            }
            return Ok(port);
        }
        bail!(
            "binding {ip}: no port from {} to {} is free",
            ports.start(),
            ports.end()
        )
    }

    /// Binds the loopback address and a port that bind() chooses.
    pub(super) fn bind_any(&mut self) -> Result<()> {
        self.explicit = Explicit::PortAny;
        let to = SocketAddr::new(loopback(self.family), 0);
        self.bind(to).with_context(|| format!("binding {to}"))
    }

    /// Binds the loopback address, and leaves the choice of the port to connect().
    pub(super) fn bind_address(&mut self) -> Result<()> {
        self.set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
            .context("setting IP_BIND_ADDRESS_NO_PORT")?;
        self.bind_any()?;
        self.explicit = Explicit::Address;
        Ok(())
    }

    pub(super) fn share_port(&self) -> Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
            .context("setting SO_REUSEPORT")
    }

    pub(super) fn reuse_address(&self) -> Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
            .context("setting SO_REUSEADDR")
    }

    pub(super) fn never_block(&self) -> Result<()> {
        self.stream
            .set_nonblocking(true)
            .context("setting O_NONBLOCK")
    }

    /// Makes close() send a reset, so that no connection is left in TIME_WAIT.
    pub(super) fn reset_on_close(&self) -> Result<()> {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        self.set(libc::SOL_SOCKET, libc::SO_LINGER, linger)
            .context("setting SO_LINGER")
    }

    pub(super) fn listen(&self, backlog: c_int) -> Result<()> {
        // SAFETY: no pointers are passed.
        check(unsafe { libc::listen(self.stream.as_raw_fd(), backlog) })
            .with_context(|| format!("listening with a backlog of {backlog}"))
    }

    /// Waits until poll() has an event: a busy kernel may finish a handshake after connect() has returned.
    pub(super) fn wait_for(&self, events: c_short) -> Result<()> {
        let mut socket = libc::pollfd {
            fd: self.stream.as_raw_fd(),
            events,
            revents: 0,
        };
        // SAFETY: the pointer is to one `pollfd`, which outlives the call.
        check(unsafe { libc::poll(&raw mut socket, 1, -1) }).context("poll")
    }

    /// Converts the socket into a listener, to accept connections.
    pub(super) fn into_listener(self) -> TcpListener {
        OwnedFd::from(self.stream).into()
    }

    fn bind(&self, to: SocketAddr) -> io::Result<()> {
        let to = RawAddress::from(to);
        // SAFETY: `to` is a socket address of the length given, and outlives the call.
        check(unsafe { libc::bind(self.stream.as_raw_fd(), to.as_ptr(), to.len()) })
    }

    /// Returns the socket as a stream, for use once it is connected.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn set<T: Copy>(&self, level: c_int, option: c_int, value: T) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of `value`, which outlives the call.
        check(unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<T>() as socklen_t,
            )
        })
    }
}

/// Returns the loopback address in the form that a socket of the family uses.
pub(super) fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
        Family::Mapped => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    }
}

/// Returns the time of the clock that the tracer reads too.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` may be written to. The call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Converts the result of a libc call, which is -1 for an error.
pub(super) fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A socket address in the kernel's layout.
pub(super) enum RawAddress {
    V4(sockaddr_in),
    V6(sockaddr_in6),
}

impl RawAddress {
    pub(super) fn as_ptr(&self) -> *const sockaddr {
        match self {
            Self::V4(address) => (&raw const *address).cast(),
            Self::V6(address) => (&raw const *address).cast(),
        }
    }

    pub(super) fn len(&self) -> socklen_t {
        let len = match self {
            Self::V4(address) => size_of_val(address),
            Self::V6(address) => size_of_val(address),
        };
        len as socklen_t
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.ip().octets()),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => Self::V6(sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            }),
        }
    }
}
