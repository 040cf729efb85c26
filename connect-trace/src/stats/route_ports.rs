//! The ports of one route, and who holds them: the model of what is shown of a route.

use std::{cmp::Reverse, collections::HashMap};

use serde::{Deserialize, Serialize};

use super::route::Route;
use crate::{
    connect::{Comm, PortChoice, PortRange},
    sockets::{PortMap, Socket, State, StateCounts},
};

/// The ports of a route.
#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct RoutePorts {
    /// The route.
    pub route: Route,
    /// The ports from which connect() chooses.
    pub range: PortRange,
    /// The use of each port of the range.
    pub map: PortMap,
    /// Connections of the route by state, with those whose ports are not in the range.
    pub states: StateCounts,
    /// Number of connections whose ports are not in the range.
    pub out_of_range: u32,
    /// Holders of ports, those with the most first.
    pub holders: Vec<HolderPorts>,
    /// Ports whose holder is not known.
    pub unknown: HeldCounts,
}

impl RoutePorts {
    /// Counts the connections of a route, each with its holder, onto the map of a range that has reserved ports and
    /// listeners already.
    #[must_use]
    pub fn of(
        route: Route,
        mut map: PortMap,
        connections: impl IntoIterator<Item = (Socket, Holder)>,
    ) -> Self {
        let mut states = StateCounts::default();
        let mut out_of_range = 0;
        let mut holders: HashMap<Holder, HeldCounts> = HashMap::new();
        for (socket, holder) in connections {
            out_of_range += u32::from(!map.add(&socket));
            states.add(socket.state);
            holders.entry(holder).or_default().add(socket.state);
        }
        let unknown = holders.remove(&Holder::default()).unwrap_or_default();
        let mut holders: Vec<_> = holders
            .into_iter()
            .map(|(holder, ports)| HolderPorts { holder, ports })
            .collect();
        holders.sort_by_key(|held| (Reverse(held.ports.total()), held.holder));
        Self {
            route,
            range: map.range(),
            map,
            states,
            out_of_range,
            holders,
            unknown,
        }
    }
}

/// Holder of ports, as far as it is known: from a record, or from what the kernel tells of a socket.
#[derive(
    Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub struct Holder {
    /// Process.
    pub pid: Option<u32>,
    /// Name of its thread.
    pub comm: Option<Comm>,
    /// Cgroup (v2).
    pub cgroup_id: Option<u64>,
    /// How the ports were chosen; known from records only. Shown as the strategy.
    pub port_choice: Option<PortChoice>,
}

/// The ports of a holder.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderPorts {
    /// The holder.
    pub holder: Holder,
    /// Its ports.
    pub ports: HeldCounts,
}

/// Numbers of ports that are held.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// By connections.
    pub open: u32,
    /// By the kernel, after connections.
    pub time_wait: u32,
}

impl HeldCounts {
    /// Adds the port of a connection.
    pub fn add(&mut self, state: State) {
        match state {
            State::TimeWait => self.time_wait += 1,
            _ => self.open += 1,
        }
    }

    /// Returns the number of ports.
    #[must_use]
    pub fn total(self) -> u32 {
        self.open + self.time_wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::connection, sockets::PortUse};

    #[test]
    fn ports_are_counted_by_state_and_by_holder() {
        let range = PortRange {
            low: 20_000,
            high: 20_009,
        };
        let mut map = PortMap::new(range, &[]);
        map.set(20_009, PortUse::Listener);
        let route = Route {
            netns: None,
            source: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 80).into(),
        };
        let holder = |pid| Holder {
            pid: Some(pid),
            comm: Some(Comm::of("client")),
            ..Holder::default()
        };
        let connections = [
            (20_000, State::Established, holder(7)),
            (20_001, State::TimeWait, holder(8)),
            (20_002, State::FinWait2, holder(8)),
            // A port that was bound, outside the range.
            (19_000, State::Established, holder(8)),
            (20_004, State::TimeWait, Holder::default()),
        ];
        let connections = connections.map(|(port, state, holder)| {
            let socket = connection(([10, 0, 0, 1], port), route.destination, state);
            (socket, holder)
        });
        let ports = RoutePorts::of(route, map, connections);
        assert_eq!(ports.range, range);
        assert_eq!((ports.states.total(), ports.out_of_range), (5, 1));
        assert_eq!(ports.states.of(State::TimeWait), 2);
        let counts = ports.map.all_counts();
        assert_eq!((counts.held(), counts.taken()), (4, 5));
        let unknown = HeldCounts {
            open: 0,
            time_wait: 1,
        };
        assert_eq!(ports.unknown, unknown);
        let held = |pid, open, time_wait| HolderPorts {
            holder: holder(pid),
            ports: HeldCounts { open, time_wait },
        };
        assert_eq!(ports.holders, [held(8, 2, 1), held(7, 1, 0)]);
    }
}
