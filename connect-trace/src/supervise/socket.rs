//! A socket of the program, by a duplicate of its descriptor: options set here are options of the program's socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use libc::{c_int, socklen_t};
use socket2::{Domain, SockAddr};

use crate::load::socket::{IP_LOCAL_PORT_RANGE, set_option};

/// `SO_NETNS_COOKIE` of asm/socket.h, from Linux 5.14.
const SO_NETNS_COOKIE: c_int = 71;

/// States of a TCP socket, of net/tcp_states.h.
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;

/// Ports 1 to 65535: the kernel takes the part that is within the range of the socket's network namespace.
pub(super) const ALL_PORTS: u32 = 0xffff_0001;

/// A duplicate.
pub(super) struct Socket(socket2::Socket);

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    fn get<T: Copy>(&self, level: c_int, option: c_int, empty: T) -> io::Result<T> {
        let mut value = empty;
        let mut length = size_of::<T>() as socklen_t;
        // SAFETY: the pointer and the length are those of `value`, a number or an array of numbers.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        match result {
            0 => Ok(value),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn set(&self, level: c_int, option: c_int, value: u32) -> io::Result<()> {
        set_option(&self.0, level, option, value.cast_signed())
    }

    /// Returns the protocol, such as `IPPROTO_TCP`; sockets of other families have numbers of their own.
    pub(super) fn protocol(&self) -> io::Result<c_int> {
        self.get(libc::SOL_SOCKET, libc::SO_PROTOCOL, 0)
    }

    /// Returns the local address of an internet socket; `None` for one of another family.
    pub(super) fn local(&self) -> io::Result<Option<SocketAddr>> {
        Ok(self.0.local_addr()?.as_socket())
    }

    /// Returns `IP_LOCAL_PORT_RANGE`: 0 if it was not set, or the kernel has no such option.
    pub(super) fn port_range(&self) -> u32 {
        self.get(libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0)
            .unwrap_or(0)
    }

    /// Sets `IP_LOCAL_PORT_RANGE`; 0 takes it back.
    pub(super) fn set_port_range(&self, both: u32) -> io::Result<()> {
        self.set(libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, both)
    }

    /// Returns the number of the socket's network namespace; `None` before Linux 5.14.
    pub(super) fn namespace(&self) -> Option<u64> {
        self.get(libc::SOL_SOCKET, SO_NETNS_COOKIE, 0).ok()
    }

    /// Returns true if a TCP socket is connected, or was asked to connect.
    pub(super) fn is_under_way(&self) -> bool {
        self.state().is_some_and(|state| state != TCP_CLOSE)
    }

    /// Returns true if the handshake of a TCP socket has succeeded.
    pub(super) fn is_established(&self) -> bool {
        matches!(self.state(), Some(TCP_ESTABLISHED | TCP_CLOSE_WAIT))
    }

    fn state(&self) -> Option<u8> {
        // The state is the first byte of `tcp_info`, whose beginning is enough.
        let info = self.get(libc::IPPROTO_TCP, libc::TCP_INFO, [0_u8; 4]);
        info.ok().map(|[state, ..]| state)
    }

    /// Binds an address and leaves the port to connect().
    pub(super) fn bind_address(&self, address: IpAddr) -> io::Result<()> {
        let address = match address {
            IpAddr::V4(v4) if self.0.domain()? == Domain::IPV6 => v4.to_ipv6_mapped().into(),
            address => address,
        };
        self.set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        self.0.bind(&SocketAddr::new(address, 0).into())
    }

    /// Returns true if calls on the socket wait.
    pub(super) fn blocks(&self) -> io::Result<bool> {
        self.0.nonblocking().map(|nonblocking| !nonblocking)
    }

    /// Has calls on the socket wait, or not.
    pub(super) fn set_blocking(&self, blocks: bool) -> io::Result<()> {
        self.0.set_nonblocking(!blocks)
    }

    /// Calls connect(), and returns its errno, or 0.
    pub(super) fn connect(&self, to: &Destination) -> i32 {
        match self.0.connect(&to.0) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// The address that the program passed to connect().
pub(super) struct Destination(SockAddr);

impl Destination {
    /// Reads the address from the memory of a thread.
    ///
    /// # Errors
    /// If the length is not that of an address, or the memory cannot be read.
    pub(super) fn read(tid: libc::pid_t, pointer: u64, length: u64) -> io::Result<Self> {
        let read = |storage: *mut socket2::SockAddrStorage, room: *mut socklen_t| {
            // SAFETY: `try_init` passes valid pointers.
            let most = unsafe { *room };
            let length = socklen_t::try_from(length)
                .ok()
                .filter(|&length| length <= most);
            let length = length.ok_or(io::ErrorKind::InvalidInput)?;
            let into = libc::iovec {
                iov_base: storage.cast(),
                iov_len: length as usize,
            };
            let from = libc::iovec {
                iov_base: pointer as *mut libc::c_void,
                iov_len: length as usize,
            };
            // SAFETY: `into` is within the storage; `from` is of the other process, and checked by the kernel.
            let read =
                unsafe { libc::process_vm_readv(tid, &raw const into, 1, &raw const from, 1, 0) };
            match usize::try_from(read) {
                Ok(read) if read == length as usize => {
                    // SAFETY: as above.
                    unsafe { *room = length };
                    Ok(())
                }
                Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(_) => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: `read` writes an address of the length that it returns, which may be of any family.
        let ((), address) = unsafe { SockAddr::try_init(read) }?;
        Ok(Self(address))
    }

    /// Returns the address, an IPv4 address for a v4-mapped one; `None` if it is of another family.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        Some(self.0.as_socket()?.ip().to_canonical())
    }
}

/// Returns true if a source address can reach a destination: same family, and both of the loopback or neither.
pub(super) fn reaches(source: IpAddr, destination: IpAddr) -> bool {
    // connect() to no address at all is one to this host.
    let is_local = destination.is_loopback() || destination.is_unspecified();
    source.is_ipv4() == destination.is_ipv4() && source.is_loopback() == is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_reaches_only_itself_and_no_family_the_other() {
        let reach = |source: &str, destination: &str| {
            reaches(source.parse().unwrap(), destination.parse().unwrap())
        };
        assert!(reach("127.0.0.2", "127.0.0.1") && reach("::1", "::"));
        assert!(reach("10.0.0.1", "10.0.0.2"));
        assert!(!reach("127.0.0.2", "10.0.0.2"));
        assert!(!reach("10.0.0.1", "127.0.0.1"));
        assert!(!reach("127.0.0.2", "::1"));
    }

    #[test]
    fn an_address_is_read_from_memory_and_a_wrong_length_is_refused() {
        let address = SockAddr::from("127.0.0.1:80".parse::<SocketAddr>().unwrap());
        let pointer = address.as_ptr() as u64;
        let pid = std::process::id().cast_signed();
        let read = |length| Destination::read(pid, pointer, length);
        let ip = read(address.len().into()).unwrap().ip();
        assert_eq!(ip, Some([127, 0, 0, 1].into()));
        assert!(read(1 << 20).is_err());
        assert!(Destination::read(pid, 8, 16).is_err());
    }
}
