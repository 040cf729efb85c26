//! Keys of groups of connect() calls.

use std::net::{IpAddr, SocketAddr};

use super::by::By;
use crate::{
    connect::{CallKind, Comm, Connect, Family, Outcome, Pass, PortChoice},
    kernel::pods::Pod,
};

/// The key that the calls of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Outcome for the source port.
    Parity(Outcome),
    /// Pass of the search that found the port; `None` if none did.
    Pass(Option<Pass>),
    /// Return value of the kernel's function, 0 for success.
    Errno(i32),
    /// Destination; `None` if the call failed before the port search.
    Destination(Option<SocketAddr>),
    /// Source address; `None` if the call failed before the port search.
    Source(Option<IpAddr>),
    /// Process (thread-group) id.
    Pid(u32),
    /// Name of the thread.
    Comm(Comm),
    /// Real user id.
    Uid(u32),
    /// Cgroup (v2) id.
    Cgroup(u64),
    /// Pod, or container without one; `None` if the cgroup belongs to neither.
    Pod(Option<Pod>),
    /// Inode number of the network namespace; `None` on a kernel without namespaces.
    Netns(Option<u32>),
    /// Protocol and operation.
    Kind(CallKind),
    /// Family of the socket.
    Family(Family),
    /// Port choice; `None` if it is not known.
    PortChoice(Option<PortChoiceKey>),
}

/// Port choice, the same for all sockets' own ranges of equal width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortChoiceKey {
    /// The port choice.
    pub port_choice: PortChoice,
    /// Number of ports of the socket's own range, within the namespace's; 0 for other choices.
    pub width: u32,
    /// True if an address was bound as well; false for other choices.
    pub address_bound: bool,
}

impl PortChoiceKey {
    /// Returns the key of a connect(); `None` if the port choice is not known.
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

impl Key {
    /// Returns the key of a connect().
    #[must_use]
    pub fn of(connect: &Connect, by: By) -> Self {
        match by {
            By::Parity => Self::Parity(Outcome::of(connect)),
            By::Pass => Self::Pass(connect.pass()),
            By::Errno => Self::Errno(connect.errno),
            By::Destination => Self::Destination(connect.destination),
            By::Source => Self::Source(connect.source),
            By::Pid => Self::Pid(connect.pid),
            By::Comm => Self::Comm(connect.comm),
            By::Uid => Self::Uid(connect.uid),
            By::Cgroup => Self::Cgroup(connect.cgroup_id),
            // `Groups` looks it up.
            By::Pod => Self::Pod(None),
            By::Netns => Self::Netns(connect.netns),
            By::Protocol => Self::Kind(connect.kind),
            By::Family => Self::Family(connect.family),
            By::Strategy => Self::PortChoice(PortChoiceKey::of(connect)),
        }
    }
}
