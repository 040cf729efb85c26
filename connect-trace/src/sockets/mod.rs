//! The TCP sockets of a network namespace, and the use of each port of a range.

mod diag;
pub(crate) mod namespace;
mod port_map;
mod state;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use self::{
    port_map::{Cell, PortMap, PortUse, UseCounts},
    state::{State, StateCounts},
};

/// A TCP socket, as the kernel's `sock_diag` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Own address; of an IPv6 socket with a v4-mapped address, the IPv4 address.
    pub local: SocketAddr,
    /// Address of the peer; unspecified for a listener.
    pub remote: SocketAddr,
    /// State.
    pub state: State,
    /// Owner; 0 if the connection has no socket any more, as in TIME_WAIT.
    pub uid: u32,
    /// Inode number, which `/proc/PID/fd` shows; 0 without a descriptor.
    pub inode: u32,
    /// Cgroup (v2) of the socket's creator; absent in TIME_WAIT, and from a kernel that does not tell.
    pub cgroup_id: Option<u64>,
    /// Time until the kernel forgets a connection in TIME_WAIT, or one in FIN_WAIT2 without a process.
    pub expires: Option<Duration>,
}

/// A choice of sockets. The kernel filters, so that the others cost little. Addresses and port are of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Own address; any without one.
    pub source: Option<IpAddr>,
    /// Address of the peer; any without one.
    pub destination: Option<IpAddr>,
    /// Port of the peer; any without one.
    pub destination_port: Option<u16>,
    /// Includes connections.
    pub connections: bool,
    /// Includes listeners, and sockets that are bound to a port only (Linux 6.8 and later tell of them), with all
    /// addresses: each takes its port from all searches.
    pub listeners: bool,
}

impl Query {
    /// Listeners and bound sockets.
    pub const LISTENERS: Self = Self {
        source: None,
        destination: None,
        destination_port: None,
        connections: false,
        listeners: true,
    };

    /// Returns the query for the connections between two addresses, and the listeners.
    #[must_use]
    pub fn between(source: IpAddr, destination: SocketAddr) -> Self {
        Self {
            source: Some(source),
            destination: Some(destination.ip()),
            destination_port: Some(destination.port()),
            connections: true,
            listeners: true,
        }
    }

    /// Asks the kernel for the sockets in the network namespace of this thread, and adds each to a value that is empty at
    /// first. If the kernel's table changes meanwhile, so that sockets may be missing, it is done again.
    ///
    /// # Errors
    /// If the kernel has no `tcp_diag`, or this process may not use sockets of netlink.
    pub fn collect<T: Default>(&self, add: impl FnMut(&mut T, Socket)) -> io::Result<T> {
        diag::collect(self, add)
    }
}

/// Returns the ports of this network namespace that sockets of IPv4 and IPv6 listen on.
///
/// # Errors
/// The same as for [`Query::collect`].
pub(crate) fn listening_ports() -> io::Result<BTreeSet<u16>> {
    Query::LISTENERS.collect(|ports: &mut BTreeSet<u16>, socket| {
        if socket.state == State::Listen {
            ports.insert(socket.local.port());
        }
    })
}
