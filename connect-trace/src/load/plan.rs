//! The complete plan of one run: all that the process that makes the run needs to know.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{log::Run, strategy::Strategy};
use crate::connect::PortRange;

/// Protocol of the sockets.
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

/// Destination of the connections, and the network that they start from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Network {
    /// A private network namespace, with a listener on this port of its loopback.
    Private {
        /// A port outside of the range.
        listener: u16,
    },
    /// The present network.
    Present {
        /// Address and port of the server.
        target: SocketAddr,
    },
}

/// One run of one strategy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// Strategy for choosing source ports.
    pub strategy: Strategy,
    /// Protocol of the sockets.
    pub protocol: Protocol,
    /// True for IPv6.
    pub v6: bool,
    /// The network namespace's range of ports.
    pub range: PortRange,
    /// Source addresses to bind in turn; empty if the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// Number of connections that can be open at once.
    pub capacity: u32,
    /// Maximum number of connections to open.
    pub connections: u32,
    /// Number of open connections at which the run ends early; `None` for no such limit.
    pub until_held: Option<u32>,
    /// Number of open connections from which on the oldest is closed for each new one; `None` to hold all.
    pub close_above: Option<u32>,
    /// Threads that open connections.
    pub threads: u16,
    /// Seed of the random choices.
    pub seed: u64,
    /// Number of this repeat of the strategy, from 1.
    pub repeat: u32,
    /// Maximum number of ports or windows that a strategy tries for a connection.
    pub tries: u32,
    /// Number of connections to begin per second; `None` for each when the one before has ended.
    pub rate: Option<u32>,
    /// Destination and network.
    pub network: Network,
}

impl Plan {
    /// Address and port to connect to.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        match self.network {
            Network::Private { listener } => SocketAddr::new(loopback(self.v6), listener),
            Network::Present { target } => target,
        }
    }

    /// Returns the run's entry for the log of attempts.
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
pub(crate) fn loopback(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}
