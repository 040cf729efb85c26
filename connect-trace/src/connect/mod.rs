//! One connect(), decoded from the kernel's record into the form that the rest of the daemon uses.

mod check_mode;
mod decode;
mod fate;
mod outcome;
mod phases;
mod port_range;
mod protocol;
pub mod scan;
pub(crate) mod settings;

pub use self::{
    check_mode::CheckMode,
    decode::Decoder,
    fate::{ConnectionEvent, Fate},
    outcome::Outcome,
    phases::{Cause, LockWaits, Phases, Split, Wait},
    port_range::{Pass, PortRange, SearchRange},
    protocol::{CallKind, Operation, Protocol, Protocols},
    settings::TimeWaitSettings,
};

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

/// One connect() call; of UDP also a bind() or send() for which the kernel chose a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Protocol and operation.
    pub kind: CallKind,
    /// Time at which `tcp_v4_connect` or `tcp_v6_connect` was entered, in nanoseconds of `CLOCK_MONOTONIC`. For UDP the
    /// function is `inet_dgram_connect`, `udp_lib_get_port` for a bind(), or `inet_autobind` for a send().
    pub start_ns: u64,
    /// Nanoseconds in that function: until the SYN is sent, or the call has failed. The handshake is not included.
    pub connect_ns: u64,
    /// Nanoseconds in `__inet_hash_connect`, or `udp_lib_get_port` for UDP: the port search. Absent if the call failed
    /// before it, or needed none.
    pub search_ns: Option<u64>,
    /// Family of the socket, which also tells a v4-mapped destination.
    pub family: Family,
    /// Source address; absent if the call failed before the port search.
    pub source: Option<IpAddr>,
    /// Source port, with its origin.
    pub port: SourcePort,
    /// Destination: the address that was passed if the call failed before the port search; absent if that was not an
    /// address of the socket's family.
    pub destination: Option<SocketAddr>,
    /// 0, or the errno that `tcp_v4_connect` or `tcp_v6_connect` returned.
    pub errno: i32,
    /// Process (thread-group) id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Name of the thread.
    pub comm: Comm,
    /// Real user id, as the initial user namespace counts.
    pub uid: u32,
    /// Inode number of the socket's network namespace; absent on a kernel without namespaces.
    pub netns: Option<u32>,
    /// Cgroup (v2) of the caller.
    pub cgroup_id: u64,
    /// Maker of the connection; absent if the kernel's sockets do not show it.
    pub owner: Option<Owner>,
    /// The ports that were searched; absent if the call failed before the port search.
    pub range: Option<SearchRange>,
    /// How the port was chosen; absent if the call failed before the port search, or the kernel's sockets do not show
    /// it.
    pub port_choice: Option<PortChoice>,
    /// True if an address was bound before (`SOCK_BINDADDR_LOCK`); absent under the same conditions as `port_choice`.
    pub address_bound: Option<bool>,
    /// Number of ports that the search went through, including the one that it found; all of the range if it found
    /// none. Absent without a search, or if it cannot be known: see [`crate::connect::scan`].
    pub scanned: Option<u32>,
    /// Number of calls of `__inet{,6}_check_established`; absent if they were not counted.
    pub checks: Option<u32>,
    /// True if any of its calls of `__inet{,6}_check_established` was watched, which makes the search longer.
    pub checks_watched: bool,
    /// The parts of the call; absent without `--phases`.
    pub phases: Option<Phases>,
}

/// The maker of a connection, from the owner of the socket (`sk_kern_sock`) and the thread that called connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A process, with a socket of its own.
    Process,
    /// The kernel, with a socket of its own, for the process that called it: the first subflow of MPTCP.
    Kernel,
    /// The kernel, with a socket and in a thread of its own: further subflows of MPTCP, NFS.
    Worker,
}

impl Owner {
    /// All owners.
    pub const ALL: [Self; 3] = [Self::Process, Self::Kernel, Self::Worker];

    /// Returns the name in JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kernel => "kernel",
            Self::Worker => "worker",
        }
    }
}

/// Family of a socket and of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// An IPv4 socket.
    V4,
    /// An IPv6 socket.
    V6,
    /// An IPv6 socket that connects to a v4-mapped address.
    Mapped,
}

/// The source port of a connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// The call failed, and the socket had no port of its own.
    None,
    /// The socket had the port before connect(), by bind(), or by an earlier call of UDP: there was no search.
    Bound(u16),
    /// The kernel's port search found it.
    Searched(u16),
}

impl SourcePort {
    /// Returns the port number, if there is one.
    #[must_use]
    pub fn number(self) -> Option<u16> {
        match self {
            Self::None => None,
            Self::Bound(port) | Self::Searched(port) => Some(port),
        }
    }
}

/// How the source port of a connect() was chosen, from the calls on the socket before.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortChoice {
    /// bind() to a port by its number.
    ExplicitPort,
    /// bind() to port 0 without `IP_BIND_ADDRESS_NO_PORT`, which chose the port; for a connect() of UDP also an earlier
    /// call that chose it.
    Bind,
    /// connect() chooses, for an address that was bound.
    Address,
    /// connect() chooses from the socket's own `IP_LOCAL_PORT_RANGE`, for an address that was bound or
    /// for any: see [`Connect::address_bound`].
    Range,
    /// connect() chooses, and nothing was set before. A bind() to the unspecified address with
    /// `IP_BIND_ADDRESS_NO_PORT` is this too: the kernel keeps no sign of it.
    Default,
}

impl PortChoice {
    /// All port choices.
    pub const ALL: [Self; 5] = [
        Self::ExplicitPort,
        Self::Bind,
        Self::Address,
        Self::Range,
        Self::Default,
    ];

    /// Number of port choices, and one more for none.
    pub(crate) const INDICES: usize = Self::ALL.len() + 1;

    /// Returns the index in [`ALL`](Self::ALL); that of none follows the last one.
    pub(crate) fn index(choice: Option<Self>) -> usize {
        choice.map_or(Self::ALL.len(), |choice| choice as usize)
    }

    /// Returns the name in text, JSON and recordings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ExplicitPort => "explicit-port",
            Self::Bind => "bind",
            Self::Address => "address",
            Self::Range => "range",
            Self::Default => "default",
        }
    }
}

/// Name of a thread: up to 15 bytes, of any value.
#[derive(Deserialize, Serialize, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// Creates the name in the kernel's form: 15 bytes.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::of_bytes(name.as_bytes())
    }

    /// Creates the name in the kernel's form from any bytes.
    #[must_use]
    pub fn of_bytes(name: &[u8]) -> Self {
        let mut comm = [0; 16];
        let length = name.len().min(15);
        comm[..length].copy_from_slice(&name[..length]);
        Self(comm)
    }
}

impl fmt::Display for Comm {
    /// Writes the name, safe for a terminal: unprintable bytes are escaped.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(self.0.len());
        formatter.pad(&self.0[..end].escape_ascii().to_string())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{self}\"")
    }
}

impl Connect {
    /// Returns the pass that found the port; absent if no search found one, or its range is not known.
    #[must_use]
    pub fn pass(&self) -> Option<Pass> {
        let (SourcePort::Searched(port), Some(range)) = (self.port, self.range) else {
            return None;
        };
        Some(range.pass(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_on_a_terminal() {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"a\x1b[2J");
        assert_eq!(Comm(comm).to_string(), "a\\x1b[2J");
        assert_eq!(Comm([b'x'; 16]).to_string(), "x".repeat(16));
    }
}
