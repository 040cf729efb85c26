//! Ranges of source ports that run out, noticed long before connect() fails: a search that went through
//! half of the ports towards a destination, and found them all taken, shows that half are.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::distinct::{Distinct, Number};
use crate::event::{Connect, Pass, PortRange, Strategy};

/// Most routes that are kept apart, a hundred bytes each.
pub const MOST_ROUTES: usize = 1_024;

/// The share of the ports that one search must have found taken, in percent.
const SHARE: u32 = 50;

/// From where to where connects go. Ports are taken for each of these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Source address.
    pub source: IpAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// Whether the ports are those of the sockets' own ranges, which can be narrow.
    pub own_range: bool,
}

/// What is known of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The range that the fullest search went through.
    pub range: PortRange,
    /// Ports of it that this search found taken, at least, in percent of those that it goes through.
    pub percent_taken: u32,
    /// Connects that found half of the ports taken or more.
    pub connects: u64,
    /// Those of them that failed, for want of a port.
    pub failed: u64,
}

/// A route whose ports run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhaustion {
    /// Which.
    pub route: Route,
    /// How it is seen.
    pub evidence: Evidence,
}

/// The routes whose ports run out, in bounded memory: only these are kept, and of them the latest.
#[derive(Clone, Debug, Default)]
pub struct Exhaustions {
    routes: HashMap<Route, Kept>,
    /// The route that came last, one of `routes`, and what has come of it since another did: to look for it
    /// anew each time would cost a connect() more than all else that is done here.
    latest: Option<(Route, Evidence)>,
    /// Increases with each search, to tell the latest.
    turn: u64,
    /// Routes that were told.
    told: Distinct,
    /// Routes that were let go for want of room, with what had come of them since the last report.
    dropped: Distinct,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    last: u64,
    /// Since the last report; `None` where nothing came since then.
    evidence: Option<Evidence>,
}

/// What is known of the routes since the last report.
#[derive(Clone, Debug, Default)]
pub struct Exhausted {
    /// The fullest first.
    pub routes: Vec<Exhaustion>,
    /// Routes that were let go for want of room, and are not among these.
    pub dropped: Number,
}

impl Exhaustions {
    /// Takes a connect. Gives its route where this is the first time that half of the ports are seen
    /// to be taken; no more than [`MOST_ROUTES`] are ever given, so that no log is flooded.
    pub fn record(&mut self, connect: &Connect) -> Option<Exhaustion> {
        let seen = evidence(connect)?;
        match &mut self.latest {
            Some((latest, evidence)) if latest.is_of(connect) => {
                evidence.add(&seen);
                None
            }
            _ => self.record_other(Route::of(connect)?, seen),
        }
    }

    /// Takes what a search showed of a route that is not the latest one.
    #[cold]
    fn record_other(&mut self, route: Route, seen: Evidence) -> Option<Exhaustion> {
        self.keep_latest();
        self.turn += 1;
        if let Some(kept) = self.routes.get_mut(&route) {
            kept.last = self.turn;
            self.latest = Some((route, seen));
            return None;
        }
        if self.routes.len() >= MOST_ROUTES {
            self.drop_oldest();
        }
        let kept = Kept {
            last: self.turn,
            evidence: None,
        };
        self.routes.insert(route, kept);
        self.latest = Some((route, seen));
        if self.told.number().count >= MOST_ROUTES as u64 || self.told.contains(&route) {
            return None;
        }
        self.told.insert(&route);
        Some(Exhaustion {
            route,
            evidence: seen,
        })
    }

    /// Takes what came since the last time. What was told once is still known.
    pub fn take(&mut self) -> Exhausted {
        self.keep_latest();
        let mut routes: Vec<Exhaustion> = self
            .routes
            .iter_mut()
            .filter_map(|(&route, kept)| {
                let evidence = kept.evidence.take()?;
                Some(Exhaustion { route, evidence })
            })
            .collect();
        routes.sort_by_key(|found| (std::cmp::Reverse(found.evidence.percent_taken), found.route));
        let mut dropped = std::mem::take(&mut self.dropped);
        for found in &routes {
            dropped.remove(&found.route);
        }
        Exhausted {
            routes,
            dropped: dropped.number(),
        }
    }

    /// Puts what has come of the latest route to what there was of it.
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
    /// Adds what others show: the range is that of the fuller.
    fn add(&mut self, other: &Self) {
        self.connects += other.connects;
        self.failed += other.failed;
        if other.percent_taken > self.percent_taken {
            self.percent_taken = other.percent_taken;
            self.range = other.range;
        }
    }
}

impl Route {
    fn of(connect: &Connect) -> Option<Self> {
        Some(Self {
            netns: connect.netns,
            source: connect.source?,
            destination: connect.destination?,
            own_range: connect.strategy == Some(Strategy::Range),
        })
    }

    /// Returns true if [`Route::of`] gives this one.
    fn is_of(&self, connect: &Connect) -> bool {
        connect.destination == Some(self.destination)
            && connect.source == Some(self.source)
            && connect.netns == self.netns
            && (connect.strategy == Some(Strategy::Range)) == self.own_range
    }
}

/// What one search shows, if it went through half of the ports. All that it passed over were taken, by
/// connections on this route, by sockets that are bound to them, or reserved.
fn evidence(connect: &Connect) -> Option<Evidence> {
    let range = connect.range?;
    let all = crate::scan::all(range)?;
    let failed = connect.errno == libc::EADDRNOTAVAIL && connect.port.number().is_none();
    let taken = match connect.scanned {
        _ if failed => all,
        Some(scanned) => scanned.saturating_sub(1),
        // Where the number is not known, the pass is.
        None if connect.pass() == Some(Pass::Second) => all / 2,
        None => return None,
    };
    // Nearly no search has gone through half, and needs a division.
    (taken * 100 >= SHARE * all).then(|| Evidence {
        range,
        percent_taken: taken * 100 / all,
        connects: 1,
        failed: u64::from(failed),
    })
}

impl fmt::Display for Exhaustion {
    /// In words, without a line feed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, evidence } = self;
        write!(
            formatter,
            "ports are running out from {} to {}",
            route.source, route.destination
        )?;
        if let Some(netns) = route.netns {
            write!(formatter, " (network namespace {netns})")?;
        }
        let whose = if route.own_range {
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
    use crate::{aggregate::summary::tests::example, event::SourcePort};

    /// Of the 2,000 ports from 20000 on.
    fn scanning(ports: u32) -> Connect {
        let port = if ports > 1_000 { 20_001 } else { 20_000 };
        Connect {
            scanned: Some(ports),
            ..example(port)
        }
    }

    fn failed() -> Connect {
        Connect {
            errno: libc::EADDRNOTAVAIL,
            port: SourcePort::None,
            scanned: None,
            ..example(0)
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
            ..example(port)
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
            strategy: Some(Strategy::ExplicitPort),
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
                strategy: Some(Strategy::Range),
                ..full
            },
        ];
        for connect in &others {
            let found = exhaustions.record(connect).unwrap();
            let own = connect.strategy == Some(Strategy::Range);
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
            // One that always comes is never let go.
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
        // Those of an earlier report are none of the next one's.
        exhaustions.record(&of(7_000));
        let taken = exhaustions.take();
        assert_eq!((taken.routes.len(), taken.dropped), (1, 0.into()));
    }
}
