//! `sock_diag`, the kernel's interface to its sockets (linux/inet_diag.h): the request with its filter, and the answer.
//! `/proc/net/tcp` lists all connections of a host as text; here the kernel leaves out those that are not wanted.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytemuck::{Pod, Zeroable};
use socket2::{Domain, Protocol, Type};

use super::{Query, Socket, State};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
const INET_DIAG_BC_D_COND: u8 = 8;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// The timer of a connection that has no socket any more.
const TIME_WAIT_TIMER: u8 = 3;

/// Size of the buffer of an answer: the largest part that the kernel sends at once.
const PART_BYTES: usize = 32 << 10;

/// Number of times that a dump is made if the kernel says that its table changed meanwhile.
const TRIES: u32 = 5;

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

/// `struct inet_diag_sockid`; ports and addresses are in the order of the network.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct SocketId {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    socket: SocketId,
}

/// `struct inet_diag_msg`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    socket: SocketId,
    expires_ms: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

/// `struct rtattr` of linux/rtnetlink.h.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Attribute {
    length: u16,
    kind: u16,
}

/// `struct inet_diag_bc_op` with the `struct inet_diag_hostcond` that follows it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Condition {
    code: u8,
    /// Distance to the next operation if the condition holds.
    yes: u8,
    /// Distance if it does not.
    no: u16,
    family: u8,
    prefix_length: u8,
    padding: u16,
    /// -1 for any.
    port: i32,
}

/// One request of a query: the sockets of one family in some states.
struct Dump<'a> {
    query: &'a Query,
    family: u8,
    states: u32,
    filtered: bool,
}

/// The end of a part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Further parts follow.
    Further,
    /// The last part.
    Last,
    /// The kernel's table changed, so that sockets may be missing: the dump must be repeated.
    Interrupted,
}

/// Makes all requests of a query in the network namespace of this thread.
pub(super) fn collect<T: Default>(
    query: &Query,
    mut add: impl FnMut(&mut T, Socket),
) -> io::Result<T> {
    repeat(|collected| {
        for dump in dumps(query) {
            if !dump.run(|socket| add(collected, socket))? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// Calls `attempt` with a new value, until it returns true.
fn repeat<T: Default>(mut attempt: impl FnMut(&mut T) -> io::Result<bool>) -> io::Result<T> {
    for _ in 0..TRIES {
        let mut collected = T::default();
        if attempt(&mut collected)? {
            return Ok(collected);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::Interrupted,
        format!("the kernel's table of sockets changed during each of {TRIES} dumps"),
    ))
}

fn dumps(query: &Query) -> impl Iterator<Item = Dump<'_>> {
    let without_peer = 1 << State::Listen as u32 | 1 << State::BoundInactive as u32;
    let all = State::ALL
        .iter()
        .map(|&state| 1 << state as u32)
        .sum::<u32>();
    let wanted = [
        (query.connections, all & !without_peer, true),
        // These have no destination, and block a port for all source addresses.
        (query.listeners, without_peer, false),
    ];
    let wanted = wanted.into_iter().filter(|&(is_wanted, ..)| is_wanted);
    wanted.flat_map(move |(_, states, filtered)| {
        let addresses = [query.source, query.destination];
        let is_v6 = filtered
            && addresses
                .into_iter()
                .flatten()
                .any(|address| address.is_ipv6());
        // Sockets of IPv6 can have IPv4 addresses.
        let families = [libc::AF_INET, libc::AF_INET6]
            .into_iter()
            .skip(is_v6.into());
        families.map(move |family| Dump {
            query,
            family: family as u8,
            states,
            filtered,
        })
    })
}

impl Dump<'_> {
    /// Asks the kernel, and passes the sockets to `take`. Returns false if the dump was interrupted.
    fn run(&self, mut take: impl FnMut(Socket)) -> io::Result<bool> {
        let mut socket = socket2::Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::DGRAM,
            Some(Protocol::from(libc::NETLINK_INET_DIAG)),
        )?;
        socket.write_all(&self.request())?;
        let mut part = vec![0; PART_BYTES];
        loop {
            let length = socket.read(&mut part)?;
            match each_of_part(&part[..length], &mut take)? {
                Part::Last => return Ok(true),
                Part::Interrupted => return Ok(false),
                Part::Further if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Part::Further => {}
            }
        }
    }

    fn request(&self) -> Vec<u8> {
        let request = Request {
            family: self.family,
            protocol: libc::IPPROTO_TCP as u8,
            states: self.states,
            ..Request::zeroed()
        };
        let filter = if self.filtered {
            filter(self.query)
        } else {
            Vec::new()
        };
        let mut rest = bytemuck::bytes_of(&request).to_vec();
        if !filter.is_empty() {
            let attribute = Attribute {
                length: (size_of::<Attribute>() + filter.len()) as u16,
                kind: INET_DIAG_REQ_BYTECODE,
            };
            rest.extend(bytemuck::bytes_of(&attribute));
            rest.extend(filter);
        }
        let header = Header {
            length: (size_of::<Header>() + rest.len()) as u32,
            kind: SOCK_DIAG_BY_FAMILY,
            flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
            sequence: 1,
            port_id: 0,
        };
        [bytemuck::bytes_of(&header), &rest].concat()
    }
}

/// Returns the program that the kernel runs for each socket: all conditions must hold.
fn filter(query: &Query) -> Vec<u8> {
    let source = condition(INET_DIAG_BC_S_COND, query.source, None);
    let destination = condition(
        INET_DIAG_BC_D_COND,
        query.destination,
        query.destination_port,
    );
    let mut left = source.len() + destination.len();
    let mut program = Vec::with_capacity(left);
    for mut condition in [source, destination] {
        if condition.is_empty() {
            continue;
        }
        // A jump to four bytes past the end refuses the socket.
        condition[2..4].copy_from_slice(&(left as u16 + 4).to_ne_bytes());
        left -= condition.len();
        program.extend(condition);
    }
    program
}

/// Returns one condition without its distance for sockets that do not meet it; empty if all do.
fn condition(code: u8, address: Option<IpAddr>, port: Option<u16>) -> Vec<u8> {
    if address.is_none() && port.is_none() {
        return Vec::new();
    }
    let (family, octets) = match address.map(|address| address.to_canonical()) {
        None => (libc::AF_UNSPEC, Vec::new()),
        // The kernel compares with v4-mapped addresses too.
        Some(IpAddr::V4(address)) => (libc::AF_INET, address.octets().to_vec()),
        Some(IpAddr::V6(address)) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let condition = Condition {
        code,
        yes: (size_of::<Condition>() + octets.len()) as u8,
        no: 0,
        family: family as u8,
        prefix_length: (octets.len() * 8) as u8,
        padding: 0,
        port: port.map_or(-1, i32::from),
    };
    [bytemuck::bytes_of(&condition), &octets].concat()
}

/// Passes the sockets of a part of an answer to `take`.
fn each_of_part(mut part: &[u8], mut take: impl FnMut(Socket)) -> io::Result<Part> {
    let short = || {
        let error = "the kernel's answer about its sockets is cut off";
        io::Error::new(io::ErrorKind::UnexpectedEof, error)
    };
    while !part.is_empty() {
        let header: Header = first(part).ok_or_else(short)?;
        let length = header.length as usize;
        let body = part.get(size_of::<Header>()..length).ok_or_else(short)?;
        if i32::from(header.flags) & libc::NLM_F_DUMP_INTR != 0 {
            return Ok(Part::Interrupted);
        }
        match i32::from(header.kind) {
            // An error that ends a dump is in its last message.
            libc::NLMSG_DONE => return error(first(body).unwrap_or(0)).map(|()| Part::Last),
            libc::NLMSG_ERROR => error(first(body).ok_or_else(short)?)?,
            _ => {
                let message: Message = first(body).ok_or_else(short)?;
                let attributes = &body[size_of::<Message>()..];
                if let Some(socket) = socket(&message, attributes) {
                    take(socket);
                }
            }
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Part::Further)
}

/// Returns the error of a negative number.
fn error(negative: i32) -> io::Result<()> {
    match negative {
        0.. => Ok(()),
        _ => Err(io::Error::from_raw_os_error(negative.saturating_neg())),
    }
}

/// Returns the socket of a message; `None` if its state or family is not known.
fn socket(message: &Message, attributes: &[u8]) -> Option<Socket> {
    let id = &message.socket;
    let address = |octets: [u8; 16], port| {
        let ip = match message.family.into() {
            libc::AF_INET => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            libc::AF_INET6 => Ipv6Addr::from(octets).to_canonical(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
    };
    Some(Socket {
        local: address(id.source, id.source_port)?,
        remote: address(id.destination, id.destination_port)?,
        state: State::of_number(message.state)?,
        uid: message.uid,
        inode: message.inode,
        cgroup_id: attribute(attributes, INET_DIAG_CGROUP_ID).and_then(first),
        expires: (message.timer == TIME_WAIT_TIMER)
            .then(|| Duration::from_millis(message.expires_ms.into())),
    })
}

/// Returns the value of an attribute.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let head: Attribute = first(attributes)?;
        let length = usize::from(head.length);
        let value = attributes.get(size_of::<Attribute>()..length)?;
        if head.kind == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Returns the value at the beginning of these bytes.
fn first<T: Pod>(bytes: &[u8]) -> Option<T> {
    bytes
        .get(..size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
mod tests;
