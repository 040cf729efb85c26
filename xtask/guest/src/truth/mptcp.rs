//! MPTCP: a connection that the kernel makes of several TCP connections; the process asks for the first one only.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::namespace::in_fresh;
use super::record::{Family, Record};
use super::socket::{Socket, check, loopback};
use super::witness::Witness;

/// `IPPROTO_MPTCP`, linux/in.h.
const PROTOCOL: libc::c_int = 262;
/// Source address of the kernel's own connections.
const FURTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PORT: u16 = 2_000;

/// Waits until the kernel has made its further connection for each requested one.
pub(super) fn mptcp(count: usize) -> Result<Vec<Record>> {
    in_fresh(|| {
        add_subflow(FURTHER).context("having MPTCP connect from a further address")?;
        let mut server = Socket::of_protocol(Family::V4, PROTOCOL)?;
        server.bind_port(PORT)?;
        server.listen(count.try_into()?)?;
        let server = server.into_listener();
        let to = SocketAddr::new(loopback(Family::V4), PORT);
        let mut witness = Witness::new("mptcp")?;
        let mut held = Vec::new();
        for _ in 0..count {
            let mut socket = Socket::of_protocol(Family::V4, PROTOCOL)?;
            witness.connect(&mut socket, to)?;
            let (mut peer, _) = server.accept()?;
            // Other connections can join only after data was sent and acknowledged.
            let mut byte = [0];
            socket.stream().write_all(b"x")?;
            peer.read_exact(&mut byte)?;
            peer.write_all(b"x")?;
            socket.stream().read_exact(&mut byte)?;
            witness.hold(socket);
            held.push(peer);
        }
        wait_for_further(count)?;
        Ok(witness.into_records())
    })
}

/// Waits for `count` established connections from [`FURTHER`].
fn wait_for_further(count: usize) -> Result<()> {
    const LIST: &str = "/proc/thread-self/net/tcp";
    const PATIENCE: Duration = Duration::from_secs(20);
    let local = format!("{:08X}:", u32::from_ne_bytes(FURTHER.octets()));
    let begin = Instant::now();
    loop {
        let list = fs::read_to_string(LIST).context(LIST)?;
        let rows = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_further = |row: &Vec<&str>| {
            row.len() > 3
                && row[1].starts_with(&local)
                && row[2].ends_with(":07D0")
                && row[3] == "01"
        };
        let there = rows.filter(is_further).count();
        if there >= count {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "the kernel made {there} of {count} further connections"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// Length of the headers of generic netlink: linux/netlink.h, linux/genetlink.h and linux/mptcp_pm.h.
const HEADERS: usize = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 0x8000;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const PM_CMD_ADD_ADDR: u8 = 1;
const PM_ATTR_ADDR: u16 = 1;
const PM_ADDR_ATTR_FAMILY: u16 = 1;
const PM_ADDR_ATTR_ADDR4: u16 = 3;
const PM_ADDR_ATTR_FLAGS: u16 = 6;
const PM_ADDR_FLAG_SUBFLOW: u32 = 2;

/// Configures the kernel to make a further connection from an address for each requested one, as `ip mptcp endpoint add
/// ADDRESS subflow` does.
fn add_subflow(address: Ipv4Addr) -> Result<()> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_GENERIC) };
    check(fd).context("opening a netlink socket")?;
    // SAFETY: the descriptor was just opened and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"mptcp_pm\0");
    let answer = ask(&fd, GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY, &name)?;
    let family = find(&answer[HEADERS..], CTRL_ATTR_FAMILY_ID).context("no id of mptcp_pm")?;
    let family = u16::from_ne_bytes(family.try_into()?);
    let endpoint = [
        attribute(PM_ADDR_ATTR_FAMILY, &(libc::AF_INET as u16).to_ne_bytes()),
        attribute(PM_ADDR_ATTR_ADDR4, &address.octets()),
        attribute(PM_ADDR_ATTR_FLAGS, &PM_ADDR_FLAG_SUBFLOW.to_ne_bytes()),
    ];
    let endpoint = attribute(PM_ATTR_ADDR | NLA_F_NESTED, &endpoint.concat());
    ask(&fd, family, NLM_F_ACK, PM_CMD_ADD_ADDR, &endpoint)?;
    Ok(())
}

/// Encodes an attribute, padded to words.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Returns the value of the first attribute of this kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Sends a command and returns the answer; an error message with the code 0 counts as an answer.
fn ask(fd: &OwnedFd, family: u16, flags: u16, command: u8, attributes: &[u8]) -> Result<Vec<u8>> {
    let length = (HEADERS + attributes.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port id, both unused; then the version.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    // SAFETY: the pointer and the length are those of `message`.
    let sent = unsafe { libc::send(fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error()).context("asking the kernel by netlink");
    }
    let mut answer = vec![0_u8; 8_192];
    // SAFETY: the pointer and the length are those of `answer`.
    let length = unsafe { libc::recv(fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    answer.truncate(length);
    ensure!(length >= HEADERS, "an answer of {length} bytes");
    if u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if error != 0 {
            bail!(io::Error::from_raw_os_error(-error));
        }
    }
    Ok(answer)
}
