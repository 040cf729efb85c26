//! The filter options as typed. Different options combine with "and", repetitions of one option with "or".

use std::{net::IpAddr, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

use crate::connect::{PortRange, Protocols};
use crate::filter::{Cidr, IpVersion};
use crate::options::values::latency;

/// The largest process id that Linux allows, `PID_MAX_LIMIT`.
const MAX_PID: i64 = 1 << 22;

/// Filters of connections.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What to trace")]
pub struct FilterArgs {
    /// Only this process (a thread-group id). This and most other filters can be repeated
    ///
    /// Connections that the kernel makes itself, such as additional MPTCP subflows, belong to no process.
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pub pids: Vec<u32>,

    /// Only processes in this cgroup (version 2) or below it, given as a path in the hierarchy or as an id
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<String>,

    /// Only processes of this user, given by name or number
    #[arg(short, long = "uid", value_name = "USER")]
    pub uids: Vec<String>,

    /// Only sockets in the network namespace of a process, or of a path such as /run/netns/NAME
    #[arg(long = "netns", value_name = "PID|PATH")]
    pub netns: Vec<String>,

    /// Only connections to this destination port, or to a range such as 8000-8999
    #[arg(
        short = 'P',
        long = "dport",
        value_name = "PORTS",
        value_delimiter = ','
    )]
    pub dports: Vec<PortRange>,

    /// Only connections to this address or network
    #[arg(long = "daddr", value_name = "CIDR")]
    pub daddrs: Vec<Cidr>,

    /// Only threads with this name (the kernel keeps its first 15 bytes)
    #[arg(long = "comm", value_name = "NAME")]
    pub comms: Vec<String>,

    /// Only connections to IPv4 addresses, including those from IPv6 sockets
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// Only connections to IPv6 addresses
    #[arg(short = '6', long)]
    pub ipv6: bool,

    /// Only these protocols [default: tcp; of a recording: all]. Of UDP and UDP-Lite: connect(), and the calls of bind()
    /// and send() for which the kernel chooses a source port
    #[arg(long, value_name = "WHICH", value_enum)]
    pub protocol: Option<ProtocolArg>,

    /// Only connect() calls that failed
    #[arg(short = 'x', long)]
    pub failed: bool,

    /// Summarize connect() calls below this time, such as 1ms or 250us: they are part of counts, means, maxima and
    /// buckets, but not of events, percentiles and the groups of --by
    #[arg(short = 'm', long, value_name = "TIME", value_parser = latency)]
    pub min_latency: Option<Duration>,
}

/// `--protocol`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtocolArg {
    /// TCP
    Tcp,
    /// UDP and UDP-Lite
    Udp,
    /// TCP, UDP, UDP-Lite and, if it is loaded, DCCP
    All,
}

impl From<ProtocolArg> for Protocols {
    fn from(protocol: ProtocolArg) -> Self {
        match protocol {
            ProtocolArg::Tcp => Self::TCP,
            ProtocolArg::Udp => Self::UDP,
            ProtocolArg::All => Self::ALL,
        }
    }
}

impl FilterArgs {
    /// Returns a message if these filters exclude every connection.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let none_of = |wanted: IpVersion| {
            let mut networks = self.daddrs.iter();
            !self.daddrs.is_empty() && networks.all(|network| !network.has(wanted))
        };
        if self.ipv4 && none_of(IpVersion::V4) {
            return Some("--ipv4 excludes every --daddr, since none is an IPv4 network".to_owned());
        }
        if self.ipv6 && none_of(IpVersion::V6) {
            return Some("--ipv6 excludes every --daddr, since none is an IPv6 network".to_owned());
        }
        None
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{address:?} is not an IP address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(length) => length
                .parse()
                .ok()
                .filter(|&length| length <= longest)
                .ok_or_else(|| format!("{length:?} is not a prefix length from 0 to {longest}"))?,
        };
        Ok(Self::new(address, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_and_a_length() {
        for right in ["10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8", "0.0.0.0/0"] {
            assert!(right.parse::<Cidr>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            "10.0.0/8",
            "10.0.0.0/33",
            "::/129",
            "host",
            "1.2.3.4/-1",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }
}
