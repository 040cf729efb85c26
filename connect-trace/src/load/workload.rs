//! A requested workload, checked as much as is possible before it starts, and the plan of each run.

use std::net::{IpAddr, SocketAddr};

use super::{
    namespace,
    plan::{Network, Plan, Protocol},
    strategy::Strategy,
};
use crate::connect::PortRange;

/// Source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// A number of addresses of the loopback.
    Count(u32),
    /// Listed addresses.
    List(Vec<IpAddr>),
}

/// The settings that all runs of a workload share, as typed.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The private namespace's range of ports.
    pub range: PortRange,
    /// Number of connections to open; `None` for the number that can be open at once.
    pub connections: Option<u32>,
    /// Threads that open them.
    pub threads: u16,
    /// Seed of the random choices.
    pub seed: u64,
    /// Share of the ports in use, 0 to 1, at which a run ends, or begins to close.
    pub until_occupancy: Option<f64>,
    /// True to close the oldest connection for each new one, false to hold all.
    pub close: bool,
    /// Source addresses of all strategies except the default.
    pub addresses: Option<Addresses>,
    /// Protocol of the sockets.
    pub protocol: Protocol,
    /// True for IPv6, if no address decides it.
    pub v6: bool,
    /// Maximum number of ports or windows that a strategy tries for a connection; `None` for twice the ports of the
    /// range.
    pub tries: Option<u32>,
    /// Number of connections to begin per second; `None` for each when the one before has ended.
    pub rate: Option<u32>,
    /// Server to connect to from the present network; `None` for a private network.
    pub target: Option<SocketAddr>,
}

/// Default share of the ports in use at which the oldest connections are closed.
const CLOSE_AT: f64 = 0.5;

impl Workload {
    /// Returns the plan of a run.
    ///
    /// # Errors
    /// Names the settings that contradict each other.
    pub fn plan(&self, strategy: Strategy, repeat: u32) -> Result<Plan, String> {
        let (range, reserved) = self.ports()?;
        if let (Some(target), Some(width)) = (self.target, strategy.step_width()) {
            return Err(format!(
                "the strategy {strategy} is a setting of the network, and --target {target} uses the host's own, which \
                 load does not change: set net.ipv4.ip_local_port_step_width to {width} and use the strategy default"
            ));
        }
        if let Some(ports) = strategy.window()
            && u32::from(ports) > range.ports()
        {
            return Err(format!(
                "a window of {ports} ports is wider than the range {range}, which has {}: lower --window or \
                 widen the range",
                range.ports()
            ));
        }
        let sources = self.sources(strategy)?;
        let capacity = (range.ports() - reserved) * sources.len().max(1) as u32;
        let connections = self.connections.unwrap_or(capacity);
        if connections > capacity && !self.close {
            return Err(format!(
                "the strategy {strategy} can have {capacity} connections open at once ({} ports, {} source \
                 address(es)), but {connections} are requested: lower --connections, widen the range, add \
                 --addresses or use --close",
                capacity / sources.len().max(1) as u32,
                sources.len().max(1)
            ));
        }
        let at = |share: f64| ((f64::from(capacity) * share).ceil() as u32).max(1);
        Ok(Plan {
            strategy,
            protocol: self.protocol,
            v6: self.v6,
            range,
            capacity,
            connections,
            until_held: self.until_occupancy.filter(|_| !self.close).map(at),
            close_above: self
                .close
                .then(|| at(self.until_occupancy.unwrap_or(CLOSE_AT))),
            threads: self.threads,
            seed: self.seed.wrapping_add(u64::from(repeat) - 1),
            repeat,
            tries: self.tries.unwrap_or(range.ports() * 2),
            rate: self.rate,
            network: self.network(range)?,
            sources,
        })
    }

    /// Returns the ports to choose from, and the number of them that the kernel never gives out.
    fn ports(&self) -> Result<(PortRange, u32), String> {
        if self.target.is_none() {
            return Ok((self.range, 0));
        }
        let range = namespace::port_range().map_err(|error| format!("{error:#}"))?;
        let reserved = namespace::reserved_within(range);
        if reserved >= range.ports() {
            return Err(format!(
                "all ports of the range {range} are reserved (net.ipv4.ip_local_reserved_ports)"
            ));
        }
        Ok((range, reserved))
    }

    fn sources(&self, strategy: Strategy) -> Result<Vec<IpAddr>, String> {
        let typed = self.addresses.as_ref();
        let sources = match (strategy, typed) {
            (Strategy::Default, _) => Vec::new(),
            (_, Some(Addresses::List(list))) => list.clone(),
            (_, Some(&Addresses::Count(1))) if strategy != Strategy::Addresses => Vec::new(),
            (_, Some(&Addresses::Count(count))) => self.of_loopback(count)?,
            (Strategy::Addresses, None) => self.of_loopback(2)?,
            (strategy, None) if strategy.binds_ports() && self.target.is_none() => {
                vec![super::plan::loopback(self.v6)]
            }
            (_, None) => Vec::new(),
        };
        if strategy == Strategy::Addresses && sources.len() < 2 {
            return Err(
                "the strategy addresses needs at least two source addresses: give them with --addresses"
                    .to_owned(),
            );
        }
        if let Some(other) = sources.iter().find(|source| source.is_ipv6() != self.v6) {
            return Err(format!(
                "--addresses {other} is not an {} address like the others or the target",
                if self.v6 { "IPv6" } else { "IPv4" }
            ));
        }
        Ok(sources)
    }

    fn of_loopback(&self, count: u32) -> Result<Vec<IpAddr>, String> {
        if self.target.is_some() {
            return Err(
                "with --target, --addresses must be a list of this machine's own addresses"
                    .to_owned(),
            );
        }
        Ok(namespace::addresses(count, self.v6))
    }

    fn network(&self, range: PortRange) -> Result<Network, String> {
        if let Some(target) = self.target {
            return Ok(Network::Present { target });
        }
        // Prefer the port above the range: low ports may be privileged.
        let outside = range.high.checked_add(1);
        let outside = outside.or_else(|| range.low.checked_sub(1).filter(|&port| port > 0));
        let listener = outside.ok_or_else(|| {
            format!(
                "the range {range} leaves no port for the listener: use a smaller one, such as 2-65535"
            )
        })?;
        Ok(Network::Private { listener })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn workload() -> Workload {
        Workload {
            range: PortRange {
                low: 20_000,
                high: 20_199,
            },
            connections: None,
            threads: 1,
            seed: 1,
            until_occupancy: None,
            close: false,
            addresses: None,
            protocol: Protocol::Tcp,
            v6: false,
            tries: None,
            rate: None,
            target: None,
        }
    }

    #[test]
    fn all_ports_of_all_addresses_are_used_by_default() {
        let plan = workload().plan(Strategy::Default, 1).unwrap();
        assert_eq!((plan.capacity, plan.connections), (200, 200));
        assert!(plan.sources.is_empty() && plan.tries == 400);
        let plan = workload().plan(Strategy::Addresses, 1).unwrap();
        assert_eq!((plan.capacity, plan.sources.len()), (400, 2));
        let one = Workload {
            addresses: Some(Addresses::Count(1)),
            ..workload()
        };
        assert!(one.plan(Strategy::Addresses, 1).is_err());
        assert_eq!(one.plan(Strategy::FullRange, 1).unwrap().capacity, 200);
    }

    #[test]
    fn occupancy_ends_a_run_or_begins_to_close() {
        let until = Workload {
            until_occupancy: Some(0.8),
            ..workload()
        };
        let plan = until.plan(Strategy::Default, 1).unwrap();
        assert_eq!((plan.until_held, plan.close_above), (Some(160), None));
        let close = Workload {
            close: true,
            connections: Some(1000),
            ..workload()
        };
        let plan = close.plan(Strategy::Default, 1).unwrap();
        assert_eq!((plan.until_held, plan.close_above), (None, Some(100)));
        assert_eq!(plan.connections, 1000);
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let mut list = workload();
        list.addresses = Some(Addresses::List(vec![
            [127, 0, 0, 2].into(),
            "::1".parse().unwrap(),
        ]));
        assert!(
            list.plan(Strategy::Addresses, 1)
                .unwrap_err()
                .contains("::1")
        );
        let mut many = workload();
        many.connections = Some(201);
        let why = many.plan(Strategy::Default, 1).unwrap_err();
        assert!(why.contains("201") && why.contains("200 ports"), "{why}");
        assert!(many.plan(Strategy::Addresses, 1).is_ok());
        assert!(workload().plan(Strategy::Window(201), 1).is_err());
        assert!(workload().plan(Strategy::Window(200), 1).is_ok());
        let mut all = workload();
        all.range = PortRange {
            low: 1,
            high: 65_535,
        };
        assert!(all.plan(Strategy::Default, 1).is_err());
        all.range.low = 2;
        let plan = all.plan(Strategy::Default, 1).unwrap();
        assert_eq!(plan.network, Network::Private { listener: 1 });
    }

    #[test]
    fn each_repeat_has_a_seed_of_its_own() {
        let seeds = [1, 2].map(|repeat| workload().plan(Strategy::Default, repeat).unwrap().seed);
        assert_eq!(seeds, [1, 2]);
    }
}
