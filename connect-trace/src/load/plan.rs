//! One run of a workload, decided to the last detail: all that the process that makes it is told.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{log::Run, strategy::Strategy};
use crate::connect::PortRange;

/// What the sockets speak.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP: connect() sends nothing
    Udp,
    /// UDP-Lite, which Linux had up to 7.0
    UdpLite,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udplite",
        })
    }
}

/// Where the connections go, and from which network.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Network {
    /// A network namespace of the run's own, with a listener on this port of its loopback.
    Private {
        /// A port outside of the range.
        listener: u16,
    },
    /// The present network.
    Present {
        /// Who answers.
        target: SocketAddr,
    },
}

/// One run: one strategy, once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// How source ports are chosen.
    pub strategy: Strategy,
    /// What the sockets speak.
    pub protocol: Protocol,
    /// Whether they are of IPv6.
    pub v6: bool,
    /// The network namespace's range of ports.
    pub range: PortRange,
    /// Source addresses to bind in turn; none where the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// How many connections can be open at once.
    pub capacity: u32,
    /// How many are asked for at most.
    pub connections: u32,
    /// Open connections at which it ends before; `None` for never.
    pub until_held: Option<u32>,
    /// Open connections from which on the oldest is closed for each new one; `None` to hold all.
    pub close_above: Option<u32>,
    /// Threads that open connections.
    pub threads: u16,
    /// Of what is random.
    pub seed: u64,
    /// Which repeat of the strategy, from 1.
    pub repeat: u32,
    /// Most ports that select-test-repeat tries for a connection.
    pub tries: u32,
    /// Where they go.
    pub network: Network,
}

impl Plan {
    /// Who is connected to.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        match self.network {
            Network::Private { listener } => SocketAddr::new(loopback(self.v6), listener),
            Network::Present { target } => target,
        }
    }

    /// As the log of attempts has it.
    #[must_use]
    pub fn run(&self, total_ns: u64, attempts: u64) -> Run {
        Run {
            strategy: self.strategy.to_string(),
            protocol: self.protocol.to_string(),
            repeat: self.repeat,
            range: self.range,
            addresses: self.sources.len().max(1) as u32,
            capacity: self.capacity,
            threads: self.threads,
            seed: self.seed,
            total_ns,
            attempts,
        }
    }
}

/// The loopback's address.
#[must_use]
pub fn loopback(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}
