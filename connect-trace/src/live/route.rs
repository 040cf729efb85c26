//! The routes whose ports fill up, each with what is known of it: what searches found taken, holders and forecast.

use std::cmp::Reverse;

use super::view::View;
use crate::{
    connect::PortRange,
    stats::{
        exhaustion::{Evidence, Exhaustion, SearchedRoute},
        filling::FillingRoute,
        route_ports::Holder,
    },
};

/// A route whose ports fill up.
#[derive(Clone, Debug)]
pub(crate) struct LiveRoute<'a> {
    pub searched: SearchedRoute,
    /// The evidence of searches, if one found half of the ports taken.
    pub evidence: Option<Evidence>,
    /// Its ports, holders and forecast, if they are told.
    pub filling: Option<&'a FillingRoute>,
    /// True if a search of the last column found half of the ports taken.
    is_now: bool,
}

impl LiveRoute<'_> {
    /// Returns the share of the ports that is in use: exactly if the ports are known, else at least.
    pub(crate) fn percent_taken(&self) -> u32 {
        if let Some(filling) = self.filling {
            let counts = filling.ports.map.all_counts();
            return (counts.taken() * 100) / counts.total().max(1);
        }
        self.evidence.map_or(0, |evidence| evidence.percent_taken)
    }

    /// Returns the number of calls that failed for lack of a port.
    pub(crate) fn failed(&self) -> u64 {
        self.evidence.map_or(0, |evidence| evidence.failed)
    }

    /// Returns the range of the ports.
    pub(crate) fn range(&self) -> Option<PortRange> {
        let seen = self.evidence.map(|evidence| evidence.range.ports);
        self.filling.map(|filling| filling.ports.range).or(seen)
    }
}

impl View<'_> {
    /// Returns a holder of ports in words.
    pub(crate) fn holder_name(&self, holder: &Holder) -> String {
        let cgroup = holder.cgroup_id.map(|id| {
            let filling = self.latest.filling.as_ref();
            let path = filling.and_then(|filling| filling.cgroups.get(&id).cloned());
            path.unwrap_or_else(|| format!("cgroup {id}"))
        });
        let words = [
            holder.pid.map(|pid| pid.to_string()),
            holder.comm.map(|comm| comm.to_string()),
            holder.port_choice.map(|choice| choice.name().to_owned()),
            cgroup,
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        words.join(" ")
    }

    /// Returns the routes of the history, and those of whose holders are told: the fullest now, then the fullest before.
    pub(crate) fn live_routes(&self) -> Vec<LiveRoute<'_>> {
        let filling = self
            .latest
            .filling
            .iter()
            .flat_map(|filling| &filling.routes);
        let mut told: Vec<_> = filling.collect();
        let mut routes: Vec<_> = self
            .routes()
            .into_iter()
            .map(|Exhaustion { searched, evidence }| {
                let place = told
                    .iter()
                    .position(|one| one.ports.route == searched.route);
                LiveRoute {
                    searched,
                    evidence: Some(evidence),
                    filling: place.map(|place| told.remove(place)),
                    is_now: self
                        .columns
                        .last()
                        .is_some_and(|column| column.percent_taken(&searched).is_some()),
                }
            })
            .collect();
        routes.extend(told.into_iter().map(|filling| LiveRoute {
            searched: SearchedRoute {
                route: filling.ports.route,
                own_range: false,
            },
            evidence: None,
            filling: Some(filling),
            is_now: true,
        }));
        // The sort keeps the order of equal elements.
        routes.sort_by_key(|route| {
            Reverse((
                route.is_now || route.filling.is_some(),
                route.percent_taken(),
            ))
        });
        routes
    }
}
