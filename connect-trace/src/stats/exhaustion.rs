//! Ranges of source ports that run out, noticed long before connect() fails: a search towards a destination that went
//! through half of the ports, and found them all taken, shows that half of them are.

use std::{collections::HashMap, fmt};

use super::{
    distinct::{Distinct, Number},
    route::Route,
};
use crate::connect::{Connect, Pass, PortChoice, SearchRange};

/// Largest number of routes that are kept apart, a hundred bytes each.
pub(crate) const MOST_ROUTES: usize = 1_024;

/// The share of the ports that one search must have found taken, in percent.
pub(crate) const SHARE: u32 = 50;

/// A route, and the kind of range that its ports come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SearchedRoute {
    /// The route.
    pub route: Route,
    /// True if the ports come from the sockets' own ranges, which can be narrow.
    pub own_range: bool,
}

/// Evidence that the ports of a route run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The range of the search that found the largest share taken.
    pub range: SearchRange,
    /// Share of the ports that this search found taken, at least, in percent of those that it goes through.
    pub percent_taken: u32,
    /// Number of connect() calls that found half of the ports taken or more.
    pub connects: u64,
    /// Number of these calls that failed for lack of a port.
    pub failed: u64,
}

/// A route whose ports run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhaustion {
    /// The route.
    pub searched: SearchedRoute,
    /// The evidence.
    pub evidence: Evidence,
}

/// The routes whose ports run out, in bounded memory: others are not kept, and of these only the latest.
#[derive(Clone, Debug, Default)]
pub struct Exhaustions {
    routes: HashMap<SearchedRoute, Kept>,
    /// The latest route, one of `routes`, with its evidence since another route was the latest: a look-up at each
    /// connect() would cost more than all other work here.
    latest: Option<(SearchedRoute, Evidence)>,
    /// Incremented with each change of the route, to find the oldest one.
    turn: u64,
    /// Routes that were logged.
    told: Distinct,
    /// Routes that were dropped for lack of room, with evidence since the last report.
    dropped: Distinct,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    last: u64,
    /// Evidence since the last report; `None` without any.
    evidence: Option<Evidence>,
}

/// Routes with evidence since the last report.
#[derive(Clone, Debug, Default)]
pub struct Exhausted {
    /// The routes, the fullest first.
    pub routes: Vec<Exhaustion>,
    /// Number of other routes, which were dropped for lack of room.
    pub dropped: Number,
}

impl Exhaustions {
    /// Adds a connect(). Returns its route if half of its ports are seen to be taken for the first time; returns no
    /// more than `MOST_ROUTES` in total, so that no log is flooded.
    pub fn record(&mut self, connect: &Connect) -> Option<Exhaustion> {
        let seen = evidence(connect)?;
        match &mut self.latest {
            Some((latest, evidence)) if latest.is_of(connect) => {
                evidence.add(&seen);
                None
            }
            _ => self.record_other(SearchedRoute::of(connect)?, seen),
        }
    }

    /// Adds the evidence of a search on a route that is not the latest one.
    #[cold]
    fn record_other(&mut self, searched: SearchedRoute, seen: Evidence) -> Option<Exhaustion> {
        self.keep_latest();
        self.turn += 1;
        if let Some(kept) = self.routes.get_mut(&searched) {
            kept.last = self.turn;
            self.latest = Some((searched, seen));
            return None;
        }
        if self.routes.len() >= MOST_ROUTES {
            self.drop_oldest();
        }
        let kept = Kept {
            last: self.turn,
            evidence: None,
        };
        self.routes.insert(searched, kept);
        self.latest = Some((searched, seen));
        if self.told.number().count >= MOST_ROUTES as u64 || self.told.contains(&searched) {
            return None;
        }
        self.told.insert(&searched);
        Some(Exhaustion {
            searched,
            evidence: seen,
        })
    }

    /// Returns the evidence since the last call. Routes that were returned once stay known.
    pub fn take(&mut self) -> Exhausted {
        self.keep_latest();
        let mut routes: Vec<Exhaustion> = self
            .routes
            .iter_mut()
            .filter_map(|(&searched, kept)| {
                let evidence = kept.evidence.take()?;
                Some(Exhaustion { searched, evidence })
            })
            .collect();
        routes.sort_by_key(|found| {
            (
                std::cmp::Reverse(found.evidence.percent_taken),
                found.searched,
            )
        });
        let mut dropped = std::mem::take(&mut self.dropped);
        for found in &routes {
            dropped.remove(&found.searched);
        }
        Exhausted {
            routes,
            dropped: dropped.number(),
        }
    }

    /// Adds the evidence of the latest route to its entry.
    fn keep_latest(&mut self) {
        if let Some((route, seen)) = self.latest.take()
            && let Some(kept) = self.routes.get_mut(&route)
        {
            match &mut kept.evidence {
                Some(evidence) => evidence.add(&seen),
                none => *none = Some(seen),
            }
        }
    }

    fn drop_oldest(&mut self) {
        let oldest = self.routes.iter().min_by_key(|(_, kept)| kept.last);
        if let Some((&route, kept)) = oldest {
            if kept.evidence.is_some() {
                self.dropped.insert(&route);
            }
            self.routes.remove(&route);
        }
    }
}

impl Evidence {
    /// Adds other evidence: the range is that of the fuller search.
    pub(crate) fn add(&mut self, other: &Self) {
        self.connects += other.connects;
        self.failed += other.failed;
        if other.percent_taken > self.percent_taken {
            self.percent_taken = other.percent_taken;
            self.range = other.range;
        }
    }
}

impl SearchedRoute {
    fn of(connect: &Connect) -> Option<Self> {
        Some(Self {
            route: Route::of(connect)?,
            own_range: connect.port_choice == Some(PortChoice::Range),
        })
    }

    /// Returns whether [`SearchedRoute::of`] a connect() is this route.
    fn is_of(&self, connect: &Connect) -> bool {
        self.route.is_of(connect)
            && (connect.port_choice == Some(PortChoice::Range)) == self.own_range
    }
}

/// Returns the evidence of one search, if it went through half of the ports. All ports that it skipped were taken, by
/// connections on this route or by sockets that are bound to them, or reserved.
fn evidence(connect: &Connect) -> Option<Evidence> {
    let found = Taken::by(connect)?;
    // Almost no search has gone through half, so the division is rarely needed.
    (found.ports * 100 >= SHARE * found.all).then(|| Evidence {
        range: found.range,
        percent_taken: found.percent(),
        connects: 1,
        failed: u64::from(found.failed),
    })
}

/// Ports that one search found taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    range: SearchRange,
    /// Number of ports that were found taken.
    ports: u32,
    /// Number of ports that a search goes through.
    all: u32,
    /// True if the call failed because it found all of them taken.
    failed: bool,
}

impl Taken {
    /// Returns the ports that the search of a connect() found taken, at least, if they are known.
    #[inline]
    pub(crate) fn by(connect: &Connect) -> Option<Self> {
        // A port of UDP is taken for all destinations: such ports are no part of a route's.
        let range = connect.range.filter(|_| !connect.kind.protocol.is_udp())?;
        let all = crate::connect::scan::all(range)?;
        let failed = connect.errno == libc::EADDRNOTAVAIL && connect.port.number().is_none();
        let ports = match connect.scanned {
            _ if failed => all,
            // A recording may say anything.
            Some(scanned) => scanned.saturating_sub(1).min(all),
            // If the number is not known, the pass still is.
            None if connect.pass() == Some(Pass::Second) => all / 2,
            None => return None,
        };
        Some(Self {
            range,
            ports,
            all,
            failed,
        })
    }

    /// Returns the share of the ports, in percent.
    pub(crate) fn percent(&self) -> u32 {
        self.ports * 100 / self.all
    }

    /// Returns the same as [`percent`](Self::percent), not rounded.
    pub(crate) fn exact_percent(&self) -> f64 {
        f64::from(self.ports) * 100.0 / f64::from(self.all)
    }
}

impl fmt::Display for Exhaustion {
    /// Writes the finding as a sentence, without a line feed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { searched, evidence } = self;
        let route = searched.route;
        write!(
            formatter,
            "ports are running out from {} to {}",
            route.source, route.destination
        )?;
        if let Some(netns) = route.netns {
            write!(formatter, " (network namespace {netns})")?;
        }
        let whose = if searched.own_range {
            "the socket's own range"
        } else {
            "the range"
        };
        if evidence.failed > 0 {
            write!(formatter, ": all of {whose} {} is in use", evidence.range)
        } else {
            write!(
                formatter,
                ": at least {} % of {whose} {} is in use",
                evidence.percent_taken, evidence.range
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connect::SourcePort, fixtures::connect_from};

    /// Returns a connect() that scanned this number of the 2,000 ports from 20000 on.
    fn scanning(ports: u32) -> Connect {
        let port = if ports > 1_000 { 20_001 } else { 20_000 };
        Connect {
            scanned: Some(ports),
            ..connect_from(port)
        }
    }

    fn failed() -> Connect {
        Connect {
            errno: libc::EADDRNOTAVAIL,
            port: SourcePort::None,
            scanned: None,
            ..connect_from(0)
        }
    }

    #[test]
    fn a_route_is_told_once_when_half_of_its_ports_are_taken() {
        let mut exhaustions = Exhaustions::default();
        assert_eq!(exhaustions.record(&scanning(1)), None);
        assert_eq!(exhaustions.record(&scanning(1_000)), None, "999 were taken");
        let found = exhaustions.record(&scanning(1_001)).unwrap();
        assert_eq!(
            found.to_string(),
            "ports are running out from 127.0.0.1 to 127.0.0.1:443 (network namespace 4026531840): \
             at least 50 % of the range 20000-21999 is in use"
        );
        assert_eq!(exhaustions.record(&scanning(1_601)), None, "it was told");
        let taken = exhaustions.take();
        assert_eq!(taken.routes.len(), 1);
        let evidence = taken.routes[0].evidence;
        assert_eq!((evidence.percent_taken, evidence.connects), (80, 2));
        assert!(exhaustions.take().routes.is_empty(), "nothing came since");
        assert_eq!(exhaustions.record(&scanning(1_401)), None, "still known");
        assert_eq!(exhaustions.take().routes[0].evidence.percent_taken, 70);
    }

    #[test]
    fn the_pass_tells_where_the_number_is_not_known() {
        let mut exhaustions = Exhaustions::default();
        let unknown = |port| Connect {
            scanned: None,
            ..connect_from(port)
        };
        assert_eq!(exhaustions.record(&unknown(20_000)), None);
        let found = exhaustions.record(&unknown(20_001)).unwrap();
        assert_eq!(found.evidence.percent_taken, 50);
    }

    #[test]
    fn a_failure_shows_that_all_are_taken() {
        let mut exhaustions = Exhaustions::default();
        let found = exhaustions.record(&failed()).unwrap();
        assert!(found.to_string().contains(": all of the range "), "{found}");
        let taken = Connect {
            port: SourcePort::Bound(80),
            port_choice: Some(PortChoice::ExplicitPort),
            ..failed()
        };
        let mut exhaustions = Exhaustions::default();
        assert_eq!(exhaustions.record(&taken), None, "of a port of its own");
    }

    #[test]
    fn routes_and_ranges_of_sockets_are_kept_apart() {
        let mut exhaustions = Exhaustions::default();
        let full = scanning(1_900);
        let others = [
            full,
            Connect {
                netns: Some(7),
                ..full
            },
            Connect {
                source: Some([127, 0, 0, 2].into()),
                ..full
            },
            Connect {
                destination: Some(([127, 0, 0, 1], 80).into()),
                ..full
            },
            Connect {
                port_choice: Some(PortChoice::Range),
                ..full
            },
        ];
        for connect in &others {
            let found = exhaustions.record(connect).unwrap();
            let own = connect.port_choice == Some(PortChoice::Range);
            assert_eq!(found.to_string().contains("the socket's own range"), own);
        }
        assert_eq!(exhaustions.take().routes.len(), others.len());
    }

    #[test]
    fn memory_is_bounded_and_what_was_let_go_is_counted() {
        let mut exhaustions = Exhaustions::default();
        let of = |netns| Connect {
            netns: Some(netns),
            ..scanning(1_900)
        };
        for netns in 0..5_000 {
            exhaustions.record(&of(netns));
            // A route with steady traffic is never dropped.
            assert_eq!(exhaustions.record(&of(0)), None);
            assert!(exhaustions.routes.len() <= MOST_ROUTES);
        }
        let taken = exhaustions.take();
        assert_eq!(taken.routes.len(), MOST_ROUTES);
        assert_eq!(taken.dropped, (5_000 - MOST_ROUTES).into());
    }

    #[test]
    fn a_route_that_is_let_go_again_and_again_is_one_and_is_told_once() {
        let mut exhaustions = Exhaustions::default();
        let of = |netns| Connect {
            netns: Some(netns),
            ..scanning(1_900)
        };
        let mut told = 0;
        for _ in 0..10 {
            for netns in 0..=MOST_ROUTES as u32 {
                told += usize::from(exhaustions.record(&of(netns)).is_some());
            }
        }
        assert_eq!(told, MOST_ROUTES);
        let taken = exhaustions.take();
        assert_eq!(taken.routes.len(), MOST_ROUTES);
        assert_eq!(taken.dropped, 1.into());
        // Dropped routes of an earlier report are not in the next one.
        exhaustions.record(&of(7_000));
        let taken = exhaustions.take();
        assert_eq!((taken.routes.len(), taken.dropped), (1, 0.into()));
    }
}
