//! The command line of `connect-trace load`, and what `connect-trace compare` has in common with it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, ValueEnum};

use crate::load::{
    plan::{self, Plan},
    strategy::Strategy,
    target,
    workload::{Addresses, Workload},
};
use crate::{connect::PortRange, options::Format};

/// `connect-trace load`
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// How to choose source ports; several strategies are run one after the other
    #[arg(value_name = "STRATEGY", value_enum, default_value = "default")]
    pub strategies: Vec<StrategyName>,

    /// Options shared with `connect-trace compare`.
    #[command(flatten)]
    pub common: WorkloadArgs,

    /// Keep every connection open until the end (the default)
    #[arg(long, conflicts_with = "close")]
    pub hold: bool,

    /// Once --until-occupancy is reached (50% by default), close the oldest connection for each new one
    #[arg(long)]
    pub close: bool,

    /// Begin this many connections per second, at even intervals, instead of each when the one before has ended
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,

    /// Connect to this server from the host's own network, with its port range, instead of within a private namespace.
    /// This can use up the source ports to that server, so it asks for confirmation
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["range", "ipv4", "ipv6"])]
    pub target: Option<SocketAddr>,

    /// Do not ask for confirmation of --target
    #[arg(long, requires = "target")]
    pub yes: bool,
}

/// Options that `load` and `compare` share.
#[derive(Args, Clone, Debug)]
pub struct WorkloadArgs {
    /// Source ports to choose from: net.ipv4.ip_local_port_range of the private namespace
    #[arg(long, value_name = "LOW-HIGH", default_value = "9024-65535", value_parser = range)]
    pub range: PortRange,

    /// Number of connections to open [default: the number of ports in the range, for each address]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,

    /// Stop once this share of the ports is in use
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub until_occupancy: Option<f64>,

    /// Number of threads that open connections
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Seed for random choices: the same seed asks for the same ports and windows
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Number of ports in each window of the strategies window, window-retry and window-cursor, at least 2. Repeat it
    /// for several runs [default: 500, for the strategies that try again 32]
    #[arg(long = "window", value_name = "PORTS", value_parser = clap::value_parser!(u16).range(2..))]
    pub windows: Vec<u16>,

    /// Longest step of a search with the strategy step-width: net.ipv4.ip_local_port_step_width of the private namespace
    #[arg(long, value_name = "NUMBER", default_value_t = STEP_WIDTH, value_parser = clap::value_parser!(u16).range(1..))]
    pub step_width: u16,

    /// Maximum number of ports or windows that a strategy tries per connection [default: twice the number of ports in
    /// the range; windows end with the whole range]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub tries: Option<u32>,

    /// Source addresses of all strategies except default: a number, or a list separated by commas
    #[arg(long, value_name = "NUMBER|LIST")]
    pub addresses: Option<Addresses>,

    /// Protocol of the sockets
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value_t)]
    pub protocol: ProtocolName,

    /// Use IPv4 (the default, unless --addresses are IPv6 addresses)
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// Use IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,

    /// Print text for people, or JSON Lines for programs (docs/load.md lists the fields)
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub format: Format,

    /// Write every attempt to this new file (docs/load.md lists the columns). With -, write to stdout, and print
    /// everything else on stderr
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub csv: Option<PathBuf>,
}

/// A strategy, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// no socket option: the kernel chooses address and port; any kernel
    Default,
    /// two or more source addresses in turn, bound with IP_BIND_ADDRESS_NO_PORT; from Linux 4.2
    Addresses,
    /// bind a random port, connect, and repeat if it is taken; any kernel
    SelectTestRepeat,
    /// bind the next port of a shuffled list of the range, connect, and go on if it is taken; any kernel
    Cursor,
    /// IP_LOCAL_PORT_RANGE with --window ports at a random position, tried once; from Linux 6.3 or 6.1.32
    Window,
    /// the same in one of the windows side by side, and if it has no free port, in wider ones, at last the whole range
    WindowRetry,
    /// the same, but the first window is the next of a shuffled list
    WindowCursor,
    /// IP_LOCAL_PORT_RANGE with the whole range; allowed from Linux 6.3 or 6.1.32, helps from 6.8
    FullRange,
    /// no socket option: searches by random steps of up to --step-width (a setting of the host); from Linux 7.1
    StepWidth,
}

/// `--protocol`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProtocolName {
    /// TCP
    #[default]
    Tcp,
    /// UDP: connect() sends nothing
    Udp,
    /// UDP-Lite, up to Linux 7.0
    Udplite,
}

impl From<ProtocolName> for plan::Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::Tcp,
            ProtocolName::Udp => Self::Udp,
            ProtocolName::Udplite => Self::UdpLite,
        }
    }
}

/// Default number of ports of a window that is tried once.
pub(crate) const WINDOW: u16 = 500;

/// Default number of ports of the first window if others follow: a short search, and in most cases a port.
pub(crate) const FIRST_WINDOW: u16 = 32;

/// Default of net.ipv4.ip_local_port_step_width for the strategy that sets it: long steps lead out of a run of ports that
/// are in use, and a range has many of them.
pub(crate) const STEP_WIDTH: u16 = 128;

impl StrategyName {
    /// Returns the strategy with a window of this number of ports; `None` if it has no windows.
    pub(crate) fn with_window(self, ports: u16) -> Option<Strategy> {
        match self {
            Self::Window => Some(Strategy::Window(ports)),
            Self::WindowRetry => Some(Strategy::WindowRetry(ports)),
            Self::WindowCursor => Some(Strategy::WindowCursor(ports)),
            _ => None,
        }
    }
}

impl LoadArgs {
    /// Returns the runs to make, in order.
    ///
    /// # Errors
    /// Names the options that contradict each other.
    pub fn plans(&self) -> Result<Vec<Plan>, String> {
        let workload = Workload {
            rate: self.rate,
            ..self.common.workload(self.close, self.target)?
        };
        let mut plans = Vec::new();
        for name in &self.strategies {
            for strategy in self.common.strategies(*name) {
                plans.push(workload.plan(strategy, 1)?);
            }
        }
        Ok(plans)
    }

    /// Returns a message if the options contradict each other or cannot be carried out.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let has_windows = |name: &StrategyName| name.with_window(WINDOW).is_some();
        if !self.common.windows.is_empty() && !self.strategies.iter().any(has_windows) {
            return Some(
                "--window applies to the strategies window, window-retry and window-cursor only, none of which is \
                 selected"
                    .to_owned(),
            );
        }
        if let Some(target) = self.target
            && !self.yes
            && !target::can_ask()
        {
            return Some(format!(
                "--target {target} can use up the ports of this machine's own network: there is no terminal to \
                 ask for confirmation on, so give --yes"
            ));
        }
        self.plans().err()
    }
}

impl WorkloadArgs {
    /// Returns the workload, with the settings that only `load` has.
    ///
    /// # Errors
    /// Names the options that contradict each other.
    pub fn workload(&self, close: bool, target: Option<SocketAddr>) -> Result<Workload, String> {
        let of_addresses = match &self.addresses {
            Some(Addresses::List(list)) => list.first().map(IpAddr::is_ipv6),
            _ => None,
        };
        let of_target = target.map(|target| target.is_ipv6());
        let typed = (self.ipv4 || self.ipv6).then_some(self.ipv6);
        let v6 = typed.or(of_target).or(of_addresses).unwrap_or(false);
        Ok(Workload {
            range: self.range,
            connections: self.connections,
            threads: self.threads,
            seed: self.seed,
            until_occupancy: self.until_occupancy,
            close,
            addresses: self.addresses.clone(),
            protocol: self.protocol.into(),
            v6,
            tries: self.tries,
            rate: None,
            target,
        })
    }

    /// Returns the strategies of a name: one for each window if several are given.
    #[must_use]
    pub fn strategies(&self, name: StrategyName) -> Vec<Strategy> {
        match name {
            StrategyName::Default => vec![Strategy::Default],
            StrategyName::Addresses => vec![Strategy::Addresses],
            StrategyName::SelectTestRepeat => vec![Strategy::SelectTestRepeat],
            StrategyName::Cursor => vec![Strategy::Cursor],
            StrategyName::FullRange => vec![Strategy::FullRange],
            StrategyName::StepWidth => vec![Strategy::StepWidth(self.step_width)],
            StrategyName::Window => self.of_windows(name, &[WINDOW]),
            StrategyName::WindowRetry | StrategyName::WindowCursor => {
                self.of_windows(name, &[FIRST_WINDOW])
            }
        }
    }

    /// Returns the strategy with each window that is given, or with the default ones.
    pub(crate) fn of_windows(&self, name: StrategyName, default: &[u16]) -> Vec<Strategy> {
        let windows = match self.windows.as_slice() {
            [] => default,
            given => given,
        };
        let windows = windows.iter();
        windows
            .filter_map(|&ports| name.with_window(ports))
            .collect()
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Maximum number of addresses: each of them is bound and counted.
        const MOST: u32 = 1000;
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text
                .parse()
                .ok()
                .filter(|count| (1..=MOST).contains(count))
                .map(Self::Count)
                .ok_or_else(|| format!("must be from 1 to {MOST}, or a list of addresses"));
        }
        let list: Vec<IpAddr> = text
            .split(',')
            .map(|word| {
                word.parse()
                    .map_err(|_| format!("{word:?} is not an IP address"))
            })
            .collect::<Result<_, _>>()?;
        for (index, address) in list.iter().enumerate() {
            if list[..index].contains(address) {
                return Err(format!("{address} is listed twice"));
            }
        }
        Ok(Self::List(list))
    }
}

fn range(text: &str) -> Result<PortRange, String> {
    if !text.contains('-') {
        return Err("not a range such as 9024-65535".to_owned());
    }
    let PortRange { low, high } = text.parse()?;
    if low == high {
        return Err("must have at least two ports".to_owned());
    }
    Ok(PortRange { low, high })
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .map(|percent: f64| percent / 100.0)
        .ok_or_else(|| "must be a share such as 80%, up to 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_shares_and_addresses_are_checked() {
        for wrong in [
            "",
            "9024",
            "0-9",
            "9-8",
            "1-65536",
            "9-9",
            "a-b",
            "-1-9",
            "65535-9024",
        ] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        assert_eq!(range("9024-65535").unwrap().ports(), 56_512);
        for wrong in ["", "%", "0", "0%", "100.1%", "-5%", "nan", "80%%"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
        assert_eq!((percent("80%"), percent("80")), (Ok(0.8), Ok(0.8)));
        for wrong in [
            "",
            "0",
            "1001",
            "99999999999",
            "-1",
            "127.0.0.1,",
            "127.0.0.256",
            "::1,::1",
        ] {
            assert!(wrong.parse::<Addresses>().is_err(), "{wrong}");
        }
        assert_eq!("3".parse(), Ok(Addresses::Count(3)));
    }
}
