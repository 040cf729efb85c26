//! The ports that a running trace knows the holders of, as the service tells them at `/ports`: its own records, as long
//! as the kernel keeps the connections. Which of the ports are in use still, the reader asks the kernel.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{route::Route, route_ports::Holder};
use crate::connect::{Comm, PortChoice};

/// The answer of `/ports`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct HeldPorts {
    /// False if connections were not recorded or forgotten early, so that holders of ports may be missing.
    pub complete: bool,
    /// The routes with ports in use.
    pub routes: Vec<HeldRoute>,
}

/// The ports of a route.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeldRoute {
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Source address.
    pub source: IpAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// Holders of the ports.
    pub holders: Vec<PortHolder>,
    /// Each port, with the index of its holder.
    pub ports: Vec<(u16, u32)>,
}

/// A holder of ports, from a record.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PortHolder {
    /// Process.
    pub pid: u32,
    /// Name of its thread.
    pub comm: String,
    /// Cgroup (v2).
    pub cgroup_id: u64,
    /// Name of the [`PortChoice`].
    pub strategy: Option<String>,
}

impl HeldRoute {
    /// Returns the route.
    #[must_use]
    pub fn route(&self) -> Route {
        Route {
            netns: self.netns,
            source: self.source,
            destination: self.destination,
        }
    }

    /// Returns the holder of a port, by its index; `None` if the answer contradicts itself.
    #[must_use]
    pub fn holder(&self, index: u32) -> Option<Holder> {
        self.holders.get(index as usize).map(PortHolder::holder)
    }
}

impl PortHolder {
    fn holder(&self) -> Holder {
        let strategy = self.strategy.as_deref();
        Holder {
            pid: Some(self.pid),
            comm: Some(Comm::of(&self.comm)),
            cgroup_id: Some(self.cgroup_id),
            port_choice: (PortChoice::ALL.into_iter())
                .find(|choice| Some(choice.name()) == strategy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_service_is_understood() {
        let text = r#"{"complete":true,"routes":[{"netns":4026531840,"source":"10.0.0.1","destination":"10.0.0.2:80","holders":[{"pid":1,"comm":"wrk","cgroup_id":5,"strategy":"default"}],"ports":[[32768,0],[32770,1]]}]}"#;
        let held: HeldPorts = serde_json::from_str(text).unwrap();
        let route = &held.routes[0];
        assert_eq!(route.route().netns, Some(4_026_531_840));
        let expected = Holder {
            pid: Some(1),
            comm: Some(Comm::of("wrk")),
            cgroup_id: Some(5),
            port_choice: Some(PortChoice::Default),
        };
        assert_eq!(route.holder(route.ports[0].1), Some(expected));
        assert_eq!(route.holder(route.ports[1].1), None);
        assert_eq!(serde_json::to_string(&held).unwrap(), text);
    }
}
