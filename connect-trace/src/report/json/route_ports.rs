//! The ports of a route as an object of JSON. docs/ports.md and docs/ports.schema.json define the fields.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    connect::{Comm, PortChoice},
    sockets::{PortMap, PortUse},
    stats::route_ports::{HeldCounts, Holder, RoutePorts},
};

/// The ports of a route.
#[derive(Serialize)]
pub(crate) struct RoutePortsObject {
    netns: Option<u32>,
    source: String,
    destination: String,
    range: [u16; 2],
    even: Lane,
    odd: Lane,
    states: BTreeMap<&'static str, u32>,
    out_of_range: u32,
    holders: Vec<HolderObject>,
    unknown: Held,
}

/// The ports of one parity.
#[derive(Serialize)]
struct Lane {
    ports: u32,
    uses: BTreeMap<&'static str, u32>,
    runs: Vec<Run>,
}

/// Neighbours among the ports of a parity that have the same use.
#[derive(Serialize)]
struct Run {
    r#use: &'static str,
    first: u16,
    last: u16,
    ports: u32,
}

/// A holder of ports.
#[derive(Serialize)]
pub(super) struct HolderObject {
    pid: Option<u32>,
    comm: Option<String>,
    cgroup_id: Option<u64>,
    cgroup: Option<String>,
    strategy: Option<&'static str>,
    #[serde(flatten)]
    held: Held,
}

/// Numbers of ports.
#[derive(Serialize)]
pub(super) struct Held {
    open: u32,
    time_wait: u32,
}

impl RoutePortsObject {
    /// Returns the object of a route. `cgroups` has the paths of cgroups by their ids.
    pub(crate) fn of(ports: &RoutePorts, cgroups: &HashMap<u64, String>) -> Self {
        let mut states = BTreeMap::new();
        for (state, count) in ports.states.present() {
            *states.entry(state.name()).or_default() += count;
        }
        Self {
            netns: ports.route.netns,
            source: ports.route.source.to_string(),
            destination: ports.route.destination.to_string(),
            range: ports.range.into(),
            even: Lane::of(&ports.map, 0),
            odd: Lane::of(&ports.map, 1),
            states,
            out_of_range: ports.out_of_range,
            holders: ports
                .holders
                .iter()
                .map(|held| HolderObject::of(&held.holder, held.ports, cgroups))
                .collect(),
            unknown: ports.unknown.into(),
        }
    }
}

impl Lane {
    fn of(map: &PortMap, parity: u16) -> Self {
        let counts = map.counts(parity);
        let ports: Vec<(u16, PortUse)> =
            map.ports().filter(|(port, _)| port % 2 == parity).collect();
        Self {
            ports: counts.total(),
            uses: PortUse::ALL
                .map(|made| (made.name(), counts.of(made)))
                .into(),
            runs: ports
                .chunk_by(|one, other| one.1 == other.1)
                .map(|run| Run {
                    r#use: run[0].1.name(),
                    first: run[0].0,
                    last: run[run.len() - 1].0,
                    ports: run.len() as u32,
                })
                .collect(),
        }
    }
}

impl HolderObject {
    /// Returns the object of a holder. `cgroups` has the paths of cgroups by their ids.
    pub(super) fn of(holder: &Holder, held: HeldCounts, cgroups: &HashMap<u64, String>) -> Self {
        Self {
            pid: holder.pid,
            comm: holder.comm.as_ref().map(Comm::to_string),
            cgroup_id: holder.cgroup_id,
            cgroup: holder.cgroup_id.and_then(|id| cgroups.get(&id).cloned()),
            strategy: holder.port_choice.map(PortChoice::name),
            held: held.into(),
        }
    }
}

impl From<HeldCounts> for Held {
    fn from(counts: HeldCounts) -> Self {
        Self {
            open: counts.open,
            time_wait: counts.time_wait,
        }
    }
}
