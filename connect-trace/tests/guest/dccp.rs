//! DCCP, where the kernel has it: the module must be loaded, which the guest's init does.

use std::{
    fs, io, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::{
    connect::{CallKind, Connect, Family, Operation, Protocol, Protocols, SourcePort},
    kernel::symbols::KALLSYMS,
    probes::{ProbeConfig, attach::AttachMode},
};

use crate::{
    Lacking, Test,
    matching::{Extent, matched},
    trace::{Session, config},
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [a_connect_of_dccp_is_traced_with_the_port_that_it_got],
];

/// Socket type and protocol of linux/net.h and linux/in.h.
const SOCK_DCCP: libc::c_int = 6;
const IPPROTO_DCCP: libc::c_int = 33;
/// Port of the destinations, on which nobody listens.
const PORT: u16 = 2_000;

fn a_connect_of_dccp_is_traced_with_the_port_that_it_got(mode: AttachMode) -> Result<()> {
    let symbols = fs::read_to_string(KALLSYMS)?;
    if !symbols.contains("dccp_v6_connect") {
        return Err(Lacking("DCCP").into());
    }
    let session = Session::start(&ProbeConfig {
        protocols: Protocols::ALL,
        ..config(mode)
    })?;
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
    let mapped = SocketAddrV6::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), PORT, 0, 0).into();
    let mut expected = Vec::new();
    for (family, to) in [(Family::V4, v4), (Family::V6, v6), (Family::Mapped, mapped)] {
        for _ in 0..5 {
            expected.push((family, to, connect(to)?));
        }
    }
    let of_tcp = truth("v4 --count 3")?;
    let trace = session.end()?;
    trace.assert_complete();
    let is_dccp = |connect: &&Connect| connect.kind.protocol == Protocol::Dccp;
    let (dccp, others): (Vec<&Connect>, Vec<&Connect>) = trace.connects.iter().partition(is_dccp);
    let is_tcp = |connect: &&&Connect| connect.kind.protocol == Protocol::Tcp;
    let tcp: Vec<Connect> = others
        .iter()
        .filter(is_tcp)
        .map(|&&connect| connect)
        .collect();
    matched(&of_tcp, &tcp, Extent::Exact)?;
    assert_eq!(dccp.len(), expected.len(), "{dccp:?}");
    for (connect, (family, to, local)) in dccp.into_iter().zip(expected) {
        assert_eq!(
            connect.kind,
            CallKind {
                protocol: Protocol::Dccp,
                operation: Operation::Connect
            }
        );
        assert_eq!(connect.family, family, "{connect:?}");
        assert_eq!(connect.errno, 0, "{connect:?}");
        assert_eq!(connect.port, SourcePort::Searched(local), "{connect:?}");
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        assert_eq!(connect.destination, Some(to), "{connect:?}");
        assert!(
            connect.search_ns.is_some_and(|ns| ns <= connect.connect_ns),
            "{connect:?}"
        );
        assert!(
            connect.range.is_some_and(|range| range.by_parity),
            "{connect:?}"
        );
    }
    Ok(())
}

/// Begins a connection without waiting for the answer, and returns its source port.
fn connect(to: SocketAddr) -> Result<u16> {
    let domain = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let kind = SOCK_DCCP | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(domain, kind, IPPROTO_DCCP) };
    ensure!(fd >= 0, "socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let result = match to {
        SocketAddr::V4(to) => {
            // SAFETY: all fields are plain numbers, for which zero is a value.
            let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = to.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            connect_raw(&socket, &raw)
        }
        SocketAddr::V6(to) => {
            // SAFETY: as above.
            let mut raw: libc::sockaddr_in6 = unsafe { mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = to.port().to_be();
            raw.sin6_addr.s6_addr = to.ip().octets();
            connect_raw(&socket, &raw)
        }
    };
    let port = UdpSocket::from(socket).local_addr()?.port();
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(port),
        other => other.map(|()| port).context("connect() of DCCP"),
    }
}

fn connect_raw<T>(socket: &OwnedFd, address: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    let address: *const T = address;
    // SAFETY: the pointer and the length are those of an address that outlives the call.
    match unsafe { libc::connect(socket.as_raw_fd(), address.cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
