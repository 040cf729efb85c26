//! The ports of this network namespace that TCP sockets listen on, asked of the kernel by `sock_diag`, which goes through
//! the listening sockets alone: `/proc/net/tcp` lists all connections, of which a busy host has very many.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
};

use bytemuck::{Pod, Zeroable};
use socket2::{Domain, Protocol, Socket, Type};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// `TCP_LISTEN` of net/tcp_states.h.
const TCP_LISTEN: u32 = 10;

/// Size of the buffer of an answer: the largest part that the kernel sends at once.
const PART_BYTES: usize = 32 << 10;

/// `struct nlmsghdr` of linux/netlink.h.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port_id: u32,
}

/// `struct inet_diag_sockid` of linux/inet_diag.h; ports are in the order of the network.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct SocketId {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    source: [u32; 4],
    destination: [u32; 4],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`, with its header.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    socket: SocketId,
}

/// The beginning of `struct inet_diag_msg`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    socket: SocketId,
}

/// Returns the ports that sockets of IPv4 and IPv6 listen on.
///
/// # Errors
/// If the kernel has no `tcp_diag`, or this process may not use sockets of netlink.
pub(crate) fn ports() -> io::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        add(family as u8, &mut ports)?;
    }
    Ok(ports)
}

fn add(family: u8, ports: &mut BTreeSet<u16>) -> io::Result<()> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(libc::NETLINK_INET_DIAG)),
    )?;
    let request = Request {
        header: Header {
            length: size_of::<Request>() as u32,
            kind: SOCK_DIAG_BY_FAMILY,
            flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
            sequence: 1,
            port_id: 0,
        },
        family,
        protocol: libc::IPPROTO_TCP as u8,
        states: 1 << TCP_LISTEN,
        ..Request::zeroed()
    };
    socket.write_all(bytemuck::bytes_of(&request))?;
    let mut part = vec![0; PART_BYTES];
    loop {
        let length = socket.read(&mut part)?;
        if length == 0 || !add_part(&part[..length], ports)? {
            return Ok(());
        }
    }
}

/// Adds the ports of a part of an answer. Returns false if it is the last part.
fn add_part(mut part: &[u8], ports: &mut BTreeSet<u16>) -> io::Result<bool> {
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    while !part.is_empty() {
        let header: Header = first(part).ok_or_else(short)?;
        let length = header.length as usize;
        let body = part.get(size_of::<Header>()..length).ok_or_else(short)?;
        match i32::from(header.kind) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => {
                let negative: i32 = first(body).ok_or_else(short)?;
                return Err(io::Error::from_raw_os_error(-negative));
            }
            _ => {
                let message: Message = first(body).ok_or_else(short)?;
                ports.insert(u16::from_be_bytes(message.socket.source_port));
            }
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Returns the value at the beginning of these bytes.
fn first<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes
        .get(..size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn listeners_of_this_process_are_there_and_its_connections_are_not() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let stream = TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        let found = ports().unwrap();
        assert!(
            found.contains(&port(&v4)) && found.contains(&port(&v6)),
            "{found:?}"
        );
        assert!(
            !found.contains(&stream.local_addr().unwrap().port()),
            "{found:?}"
        );
    }

    #[test]
    fn an_error_and_an_end_are_understood_and_what_is_cut_is_refused() {
        let header = |length: usize, kind: i32| Header {
            length: length as u32,
            kind: kind as u16,
            ..Header::zeroed()
        };
        let mut ports = BTreeSet::new();
        let message = Message {
            socket: SocketId {
                source_port: 8080_u16.to_be_bytes(),
                ..SocketId::zeroed()
            },
            ..Message::zeroed()
        };
        let length = size_of::<Header>() + size_of::<Message>();
        let mut part = bytemuck::bytes_of(&header(length, SOCK_DIAG_BY_FAMILY.into())).to_vec();
        part.extend(bytemuck::bytes_of(&message));
        assert!(add_part(&part, &mut ports).unwrap());
        assert!(ports.contains(&8080));
        assert!(add_part(&part[..length - 1], &mut ports).is_err());
        assert!(add_part(&part[..3], &mut ports).is_err());
        let done = header(size_of::<Header>(), libc::NLMSG_DONE);
        assert!(!add_part(bytemuck::bytes_of(&done), &mut ports).unwrap());
        let error = header(size_of::<Header>() + 4, libc::NLMSG_ERROR);
        let mut failed = bytemuck::bytes_of(&error).to_vec();
        failed.extend((-libc::ENOENT).to_ne_bytes());
        let error = add_part(&failed, &mut ports).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
