//! Routes that fill up, as they are shown: their ports with the holders, and when the ports end.

use std::collections::HashMap;

use super::{forecast::Forecast, route_ports::RoutePorts};

/// The fullest routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filling {
    /// The routes, the fullest first.
    pub routes: Vec<FillingRoute>,
    /// Paths of the holders' cgroups, by their ids.
    pub cgroups: HashMap<u64, String>,
    /// Number of other routes that fill up.
    pub more: u64,
    /// Number of ports that were dropped for lack of room since the start.
    pub dropped: u64,
}

/// A route that fills up.
#[derive(Clone, Debug, PartialEq)]
pub struct FillingRoute {
    /// Its ports.
    pub ports: RoutePorts,
    /// When they end.
    pub forecast: Forecast,
    /// The reason why the kernel was not asked, so that connections of before the start are missing; `None` if it was.
    pub records_alone: Option<String>,
}
