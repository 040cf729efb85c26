//! Which connects are wanted, as it is typed. Options that differ combine with "and", one that is given
//! more than once with "or".

use std::{net::IpAddr, str::FromStr, time::Duration};

use clap::Args;

use crate::connect::PortRange;
use crate::filter::{Cidr, IpVersion};
use crate::options::values::latency;

/// The largest process id that Linux allows, `PID_MAX_LIMIT`.
const MAX_PID: i64 = 1 << 22;

/// Which connects are wanted.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "What to trace")]
pub struct FilterArgs {
    /// This process (thread-group id); this and most others can be given more than once
    ///
    /// Connections that the kernel makes itself, such as further subflows of MPTCP, are of no process.
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pub pids: Vec<u32>,

    /// Processes in this cgroup (version 2) or below it; a path of the hierarchy, or an id
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<String>,

    /// Processes of this user, by name or number
    #[arg(short, long = "uid", value_name = "USER")]
    pub uids: Vec<String>,

    /// Sockets of the network namespace of a process, or of a path such as /run/netns/NAME
    #[arg(long = "netns", value_name = "PID|PATH")]
    pub netns: Vec<String>,

    /// To this destination port, or to a range of them such as 8000-8999
    #[arg(
        short = 'P',
        long = "dport",
        value_name = "PORTS",
        value_delimiter = ','
    )]
    pub dports: Vec<PortRange>,

    /// To this address or network
    #[arg(long = "daddr", value_name = "CIDR")]
    pub daddrs: Vec<Cidr>,

    /// Threads of this name (the kernel keeps 15 bytes of it)
    #[arg(long = "comm", value_name = "NAME")]
    pub comms: Vec<String>,

    /// To IPv4 addresses, from IPv6 sockets too
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// To IPv6 addresses
    #[arg(short = '6', long)]
    pub ipv6: bool,

    /// Those that failed
    #[arg(short = 'x', long)]
    pub failed: bool,

    /// Leave connects below this, such as 1ms or 250us, to the counts and buckets: events, percentiles and the
    /// groups of --by are of the others
    #[arg(short = 'm', long, value_name = "TIME", value_parser = latency)]
    pub min_latency: Option<Duration>,
}

impl FilterArgs {
    /// What in these filters excludes everything.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let none_of = |wanted: IpVersion| {
            let mut networks = self.daddrs.iter();
            !self.daddrs.is_empty() && networks.all(|network| !network.has(wanted))
        };
        if self.ipv4 && none_of(IpVersion::V4) {
            return Some("no --daddr is an IPv4 network, which --ipv4 asks for".to_owned());
        }
        if self.ipv6 && none_of(IpVersion::V6) {
            return Some("no --daddr is an IPv6 network, which --ipv6 asks for".to_owned());
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
            .map_err(|_| format!("{address:?} is no IP address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(length) => length
                .parse()
                .ok()
                .filter(|&length| length <= longest)
                .ok_or_else(|| format!("{length:?} is no prefix length from 0 to {longest}"))?,
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
