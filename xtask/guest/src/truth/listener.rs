//! The other end of the connects. It accepts nothing unless told to: the connections wait in
//! backlogs that are large enough, so that it costs neither descriptors nor time.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

use super::range::PortRange;
use super::record::Family;
use super::socket::{Socket, loopback};

/// Where listeners and other servers are looked for: below the kernel's usual range, from which
/// connect() chooses.
const PORTS: std::ops::RangeInclusive<u16> = 2000..=9000;

/// Listening sockets on one port. Dropping it resets the connections that it never accepted, so that
/// none of them is left in TIME_WAIT.
pub(super) struct Listener {
    /// SO_REUSEPORT spreads the connections over them.
    sockets: Vec<TcpListener>,
    address: SocketAddr,
}

impl Listener {
    /// Listens on a port outside of `range`, with room for so many connections.
    pub(super) fn outside(
        range: Option<PortRange>,
        family: Family,
        connections: usize,
    ) -> Result<Self> {
        let backlog = longest_backlog()?;
        // The kernel spreads by hash, never quite evenly: a third of the room is left empty.
        let count = 1 + connections * 3 / 2 / backlog;
        // With SO_REUSEPORT bind() would accept another program's port as well: so it is tried
        // without, and the port taken afterwards.
        let port = closed_port(family, |port| {
            range.is_none_or(|range| !range.contains(port))
        })?
        .1;
        let sockets = (0..count)
            .map(|_| {
                let mut socket = Socket::new(served_by(family))?;
                socket.share_port()?;
                socket.bind_port(port)?;
                socket.listen(backlog.try_into().unwrap_or(i32::MAX))?;
                Ok(socket.into_listener())
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            sockets,
            address: SocketAddr::new(loopback(family), port),
        })
    }

    /// Listens on a port outside of the kernel's usual range.
    pub(super) fn new(family: Family, connections: usize) -> Result<Self> {
        Self::outside(None, family, connections)
    }

    /// As a socket of its family names it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's end of a connection, if the listener has room for few enough of them to be one
    /// socket.
    pub(super) fn accept(&self) -> Result<std::net::TcpStream> {
        let (stream, _) = self.sockets[0]
            .accept()
            .with_context(|| format!("accepting a connection on {}", self.address))?;
        Ok(stream)
    }

    /// Closes every connection that waits. Waits for none: one that its client has reset may never come.
    pub(super) fn empty(&self) -> Result<()> {
        for socket in &self.sockets {
            socket
                .set_nonblocking(true)
                .context("making a listener not wait")?;
            while socket.accept().is_ok() {}
        }
        Ok(())
    }
}

/// A socket that holds a port and does not listen, so that connects to it are refused until it does.
pub(super) fn closed_port(family: Family, wanted: impl Fn(u16) -> bool) -> Result<(Socket, u16)> {
    let mut socket = Socket::new(served_by(family))?;
    let port = socket.bind_some_port(PORTS, wanted)?;
    Ok((socket, port))
}

/// The family of the server's socket.
fn served_by(family: Family) -> Family {
    match family {
        Family::V4 | Family::Mapped => Family::V4,
        Family::V6 => Family::V6,
    }
}

fn longest_backlog() -> Result<usize> {
    let path = "/proc/sys/net/core/somaxconn";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} contains {text:?}"))
}
