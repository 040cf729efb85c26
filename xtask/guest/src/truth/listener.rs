//! The other end of the connections. A listener accepts nothing by default: the connections wait in backlogs that are
//! large enough, so that they cost neither descriptors nor time.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

use super::range::PortRange;
use super::record::Family;
use super::socket::{Socket, loopback};

/// Ports for listeners and other servers: below the kernel's default range, from which connect() chooses.
const PORTS: std::ops::RangeInclusive<u16> = 2000..=9000;

/// Listening sockets on one port. Dropping them resets the connections that were never accepted, so that none of them
/// is left in TIME_WAIT.
pub(super) struct Listener {
    /// With SO_REUSEPORT the kernel spreads the connections over them.
    sockets: Vec<TcpListener>,
    address: SocketAddr,
}

impl Listener {
    /// Listens on a port outside of `range`, with room for `connections`.
    pub(super) fn outside(
        range: Option<PortRange>,
        family: Family,
        connections: usize,
    ) -> Result<Self> {
        let backlog = longest_backlog()?;
        // The kernel spreads by hash, never quite evenly: a third of the room is left empty.
        let count = 1 + connections * 3 / 2 / backlog;
        // With SO_REUSEPORT bind() would accept another program's port as well: therefore bind() is tried without it
        // first, and the port is taken afterwards.
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

    /// Listens on a port outside of the kernel's default range.
    pub(super) fn new(family: Family, connections: usize) -> Result<Self> {
        Self::outside(None, family, connections)
    }

    /// Returns the address in the form that a socket of its family uses.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the server's end of a connection, if the listener is small enough to have a single socket.
    pub(super) fn accept(&self) -> Result<std::net::TcpStream> {
        let (stream, _) = self.sockets[0]
            .accept()
            .with_context(|| format!("accepting a connection on {}", self.address))?;
        Ok(stream)
    }

    /// Closes every waiting connection. Does not wait for more: one that its client has reset may never come.
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

/// Returns a socket that holds a port and does not listen, so that connections to the port are refused until it does.
pub(super) fn closed_port(family: Family, wanted: impl Fn(u16) -> bool) -> Result<(Socket, u16)> {
    let mut socket = Socket::new(served_by(family))?;
    let port = socket.bind_some_port(PORTS, wanted)?;
    Ok((socket, port))
}

/// Returns the family of the server's socket.
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
