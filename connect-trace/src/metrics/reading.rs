//! The values of one exposition.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

pub use super::{local_ports::LocalPorts, mitigation::MitigationReading, process::Process};

use super::Totals;
use crate::{
    overhead::{ProgramRuns, limiter::Level},
    stats::{
        accounting::Accounting,
        exhaustion::Exhausted,
        filling::{Filling, FillingRoute},
        forecast::Outlook,
    },
};

/// The routes whose ports run out, as of the last interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// The largest share of its ports that a search on any route found taken, from 0 to 1; 0 if none went through half.
    pub used_ratio: f64,
    /// Number of routes with searches that found half of their ports taken, or more.
    pub exhausting: u64,
    /// Number of routes that were logged since the start.
    pub warnings: u64,
    /// The fullest routes by their addresses, as many as were asked for.
    pub named: Vec<NamedRoute>,
    /// The ends of the routes that fill up, as many as were asked for.
    pub ends: Vec<RouteEnd>,
}

/// When the ports of a route end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteEnd {
    /// Source address.
    pub source: IpAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// Connections that took a port, per second.
    pub opens_per_s: f64,
    /// Connections that ended, per second.
    pub closes_per_s: f64,
    /// Seconds until the second pass begins; `None` if nobody can say.
    pub second_pass_s: Option<f64>,
    /// Seconds until connect() fails; `None` if nobody can say.
    pub exhausted_s: Option<f64>,
}

/// A route by its addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NamedRoute {
    /// Source address.
    pub source: IpAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// The largest share of its ports that a search found taken, from 0 to 1.
    pub used_ratio: f64,
}

impl Routes {
    /// Takes the routes of an interval, and names the fullest `named` of them.
    pub fn see(&mut self, exhausted: &Exhausted, named: usize) {
        let ratio = |percent: u32| f64::from(percent) / 100.0;
        // The fullest is the first.
        let routes = exhausted.routes.iter();
        let fullest = routes
            .clone()
            .next()
            .map(|found| found.evidence.percent_taken);
        self.used_ratio = ratio(fullest.unwrap_or(0));
        self.exhausting = exhausted.routes.len() as u64 + exhausted.dropped.count;
        // Routes that differ only in the network namespace or the socket's own range have the same labels.
        let mut seen = BTreeSet::new();
        let distinct = routes
            .filter(|found| {
                seen.insert((
                    found.searched.route.source,
                    found.searched.route.destination,
                ))
            })
            .take(named);
        self.named = distinct
            .map(|found| NamedRoute {
                source: found.searched.route.source,
                destination: found.searched.route.destination,
                used_ratio: ratio(found.evidence.percent_taken),
            })
            .collect();
    }

    /// Takes the routes that fill up now, and names the fullest `named` of them.
    pub fn see_filling(&mut self, filling: &Filling, named: usize) {
        let mut seen = BTreeSet::new();
        let routes = filling.routes.iter();
        let distinct = routes.filter(|filling| {
            let route = filling.ports.route;
            seen.insert((route.source, route.destination))
        });
        let end = |filling: &FillingRoute| RouteEnd {
            source: filling.ports.route.source,
            destination: filling.ports.route.destination,
            opens_per_s: filling.forecast.opens_per_s,
            closes_per_s: filling.forecast.closes_per_s,
            second_pass_s: filling.forecast.second_pass.and_then(Outlook::seconds),
            exhausted_s: filling.forecast.exhausted.seconds(),
        };
        self.ends = distinct.take(named).map(end).collect();
    }
}

/// Everything that one exposition shows.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The connect() calls since the start.
    pub totals: Totals,
    /// The account of every call since the start.
    pub accounting: Accounting,
    /// The routes whose ports run out.
    pub routes: Routes,
    /// The ports of this network namespace, if its settings can be read.
    pub local_ports: Option<LocalPorts>,
    /// Runs of the programs since the start, if the kernel counts them.
    pub programs: Vec<ProgramRuns>,
    /// The mitigation, if there is one.
    pub mitigation: Option<MitigationReading>,
    /// The level that keeps the overhead limit.
    pub level: Level,
    /// The resources of this process.
    pub process: Process,
    /// The kernel's release.
    pub kernel: String,
    /// The way in which the programs are attached.
    pub attached: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, SourcePort},
        fixtures::connect_from,
        stats::Exhaustions,
    };

    #[test]
    fn routes_are_named_on_request_only_the_fullest_first_and_each_once() {
        let scanning = |scanned, netns, last: u8| Connect {
            scanned: Some(scanned),
            netns: Some(netns),
            destination: Some(([10, 0, 0, last], 443).into()),
            ..connect_from(20_001)
        };
        let mut exhaustions = Exhaustions::default();
        for connect in [
            scanning(1_401, 1, 1),
            scanning(1_801, 1, 2),
            scanning(1_601, 2, 2),
            Connect {
                errno: libc::EADDRNOTAVAIL,
                port: SourcePort::None,
                scanned: None,
                ..scanning(0, 1, 3)
            },
        ] {
            exhaustions.record(&connect);
        }
        let exhausted = exhaustions.take();
        let mut routes = Routes::default();
        routes.see(&exhausted, 0);
        assert_eq!((routes.used_ratio, routes.exhausting), (1.0, 4));
        assert_eq!(routes.named, []);
        let mut named = |most| {
            routes.see(&exhausted, most);
            let named = routes.named.iter();
            named
                .map(|route| (route.destination.to_string(), route.used_ratio))
                .collect::<Vec<_>>()
        };
        let all = [
            ("10.0.0.3:443", 1.0),
            ("10.0.0.2:443", 0.9),
            ("10.0.0.1:443", 0.7),
        ];
        let all = all.map(|(destination, ratio)| (destination.to_owned(), ratio));
        assert_eq!(named(2), all[..2]);
        assert_eq!(named(9), all);
        routes.see(&Exhausted::default(), 9);
        assert_eq!((routes.used_ratio, routes.exhausting), (0.0, 0));
        assert_eq!(routes.named, []);
    }
}
