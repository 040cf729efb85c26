//! Connects of the test's own, for what `truth` has no case of: a socket with a range of ports of its
//! own.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};

/// `IP_LOCAL_PORT_RANGE`, linux/in.h; the libc crate has it not.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Connects once from each port of the range, by sockets that have this range. `None` where the kernel
/// does not know of such a range.
pub fn connect_from_all(low: u16, high: u16) -> Result<Option<Vec<u16>>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let mut held = Vec::new();
    for _ in low..=high {
        match connect_within(low, high, port) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return Ok(None),
            connected => held.push(connected.context("cannot connect within a range")?),
        }
    }
    let ports = held
        .iter()
        .map(|stream| Ok(stream.local_addr()?.port()))
        .collect::<Result<_>>()?;
    Ok(Some(ports))
}

fn connect_within(low: u16, high: u16, port: u16) -> io::Result<TcpStream> {
    // SAFETY: the call takes no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let range = u32::from(high) << 16 | u32::from(low);
    // SAFETY: the pointer and the length are those of `range`.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const range).cast(),
            size_of_val(&range) as libc::socklen_t,
        )
    })?;
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be(),
        },
        sin_zero: [0; 8],
    };
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

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
