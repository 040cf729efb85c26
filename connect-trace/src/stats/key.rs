//! What a connect has in common with the others of its group.

use std::net::{IpAddr, SocketAddr};

use super::by::By;
use crate::connect::{Comm, Connect, Family, Pass, PortChoice, SourcePort};

/// What the connects of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// What became of the source port.
    Parity(Parity),
    /// The pass of the search that found the port; `None` where none did.
    Pass(Option<Pass>),
    /// What the kernel's function returned, 0 for success.
    Errno(i32),
    /// Destination; `None` where the call failed before the port search.
    Destination(Option<SocketAddr>),
    /// Source address; `None` where the call failed before the port search.
    Source(Option<IpAddr>),
    /// Process (thread-group) id.
    Pid(u32),
    /// Name of the thread.
    Comm(Comm),
    /// Real user id.
    Uid(u32),
    /// Cgroup (v2) id.
    Cgroup(u64),
    /// Inode number of the network namespace; `None` on a kernel without namespaces.
    Netns(Option<u32>),
    /// Family of the socket.
    Family(Family),
    /// How the source port is chosen; `None` where that is not known.
    PortChoice(Option<PortChoiceKey>),
}

/// How the source port is chosen, the same for all ranges of sockets' own that are as wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortChoiceKey {
    /// The choice.
    pub port_choice: PortChoice,
    /// Number of ports of the socket's own range, as far as it is in force; 0 for other choices.
    pub width: u32,
    /// Whether an address was bound as well; false for other choices.
    pub address_bound: bool,
}

impl PortChoiceKey {
    /// That of a connect.
    #[must_use]
    pub fn of(connect: &Connect) -> Option<Self> {
        let port_choice = connect.port_choice?;
        let range = connect.range.filter(|_| port_choice == PortChoice::Range);
        Some(Self {
            port_choice,
            width: range.map_or(0, |range| range.ports.ports()),
            address_bound: range.is_some() && connect.address_bound == Some(true),
        })
    }
}

/// What became of the source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parity {
    /// The search found an even port.
    Even,
    /// The search found an odd port.
    Odd,
    /// The socket had its port before.
    Bound,
    /// The connect failed.
    Failed,
}

impl Parity {
    /// That of a connect.
    #[must_use]
    pub fn of(connect: &Connect) -> Self {
        match connect.port {
            _ if connect.errno != 0 => Self::Failed,
            SourcePort::Searched(port) if port % 2 == 0 => Self::Even,
            SourcePort::Searched(_) => Self::Odd,
            SourcePort::Bound(_) | SourcePort::None => Self::Bound,
        }
    }
}

impl Key {
    /// That of a connect.
    #[must_use]
    pub fn of(connect: &Connect, by: By) -> Self {
        match by {
            By::Parity => Self::Parity(Parity::of(connect)),
            By::Pass => Self::Pass(connect.pass()),
            By::Errno => Self::Errno(connect.errno),
            By::Destination => Self::Destination(connect.destination),
            By::Source => Self::Source(connect.source),
            By::Pid => Self::Pid(connect.pid),
            By::Comm => Self::Comm(connect.comm),
            By::Uid => Self::Uid(connect.uid),
            By::Cgroup => Self::Cgroup(connect.cgroup_id),
            By::Netns => Self::Netns(connect.netns),
            By::Family => Self::Family(connect.family),
            By::Strategy => Self::PortChoice(PortChoiceKey::of(connect)),
        }
    }
}
