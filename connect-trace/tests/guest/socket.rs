//! Connections made by the test itself, for a case that `truth` lacks: a socket with its own range of ports, with or
//! without an address.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};

use crate::truth::Range;

/// `IP_LOCAL_PORT_RANGE` of linux/in.h, which the libc crate lacks.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Connects once from each port of a range above the kernel's default range, by sockets that have this range. Returns
/// `None` if the kernel does not support such a range.
///
/// The kernel's search skips a port that bind() has given to a socket, up to a minute after the socket's end. bind()
/// gives no port above the default range.
/// usual range it gives none.
pub fn connect_from_all(low: u16, high: u16) -> Result<Option<Vec<u16>>> {
    // Bound while the range is the default one.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let usual = Range::read()?;
    ensure!(low > usual.high()?, "port {low} is in the usual range");
    // A socket's own range must be within the kernel's range.
    usual.extend_to(high)?;
    let mut held = Vec::new();
    for _ in low..=high {
        match connect_within(low, high, Address::Any, port)? {
            None => return Ok(None),
            Some(stream) => held.push(stream),
        }
    }
    let ports = held
        .iter()
        .map(|stream| Ok(stream.local_addr()?.port()))
        .collect::<Result<_>>()?;
    Ok(Some(ports))
}

/// Choice by bind() before connect().
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// No bind().
    Any,
    /// The loopback address, with `IP_BIND_ADDRESS_NO_PORT`.
    Loopback,
}

/// Connects to a port of loopback by a socket that has this range. Returns `None` if the kernel does not support such a
/// range.
pub fn connect_within(
    low: u16,
    high: u16,
    address: Address,
    port: u16,
) -> Result<Option<TcpStream>> {
    match try_within(low, high, address, port) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        connected => connected.map(Some).context("cannot connect within a range"),
    }
}

/// Connects as [`connect_within`] does, and returns the error of a call that fails.
pub fn try_within(low: u16, high: u16, address: Address, port: u16) -> io::Result<TcpStream> {
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) })?;
    // SAFETY: the descriptor is new, and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let range = u32::from(high) << 16 | u32::from(low);
    set(fd, IP_LOCAL_PORT_RANGE, range)?;
    if address == Address::Loopback {
        set(fd, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        let from = loopback(0);
        // SAFETY: the pointer and the length are those of `from`.
        check(unsafe {
            libc::bind(
                fd,
                (&raw const from).cast(),
                size_of_val(&from) as libc::socklen_t,
            )
        })?;
    }
    let to = loopback(port);
    // SAFETY: the pointer and the length are those of `to`.
    check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    })?;
    Ok(socket.into())
}

fn set(fd: libc::c_int, option: libc::c_int, value: u32) -> io::Result<libc::c_int> {
    // SAFETY: the pointer and the length are those of `value`.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
}

fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be(),
        },
        sin_zero: [0; 8],
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
