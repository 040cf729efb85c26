//! The routes of a mitigation: destinations whose source address is known, and on which the mitigation acts if the trace
//! has seen enough of their ports in use.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use connect_trace_common::{RouteCounts, RouteKey, RouteState, mitigation::MOST_ROUTES};
use tokio::time::Instant;

use crate::{
    connect::{Connect, PortChoice},
    probes::mitigation::address_words,
    stats::{exhaustion::Taken, mitigation::RouteNumbers},
};

/// Time after which a route is forgotten, so that the kernel chooses for its next connection: the source address may have
/// changed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// Number of changes of the source address from which on a route is ambiguous.
const MOST_CHANGES: u32 = 3;

/// Difference in percent between the share of ports in use at which a mitigation begins to act on a route, and the one
/// below which it ends.
const HYSTERESIS: u32 = 10;

/// Smallest number of tested ports from which the share in use is estimated.
const TESTED: u64 = 100;

/// The routes.
pub(crate) struct Routes {
    /// Share of the ports in percent from which the mitigation acts; 0 for always.
    when_above: u32,
    all: HashMap<RouteKey, Route>,
    /// Number of connections on other routes, for lack of room.
    dropped: u64,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    source: [u32; 4],
    acts: bool,
    /// Number of times that another source address was seen.
    changes: u32,
    since: Instant,
    /// Tested and taken ports when the share in use was last estimated.
    tested: u64,
    taken: u64,
}

/// A change of the map `ROUTES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A route that is new, or has another source address or state.
    Set(RouteKey, RouteState),
    /// A route that is forgotten.
    Remove(RouteKey),
}

impl Routes {
    pub(crate) fn new(when_above: u32) -> Self {
        Self {
            when_above,
            all: HashMap::new(),
            dropped: 0,
        }
    }

    /// Returns true if the mitigation acts on the route of a connection.
    pub(crate) fn acts_on(&self, connect: &Connect) -> bool {
        let route = key(connect).and_then(|key| self.all.get(&key));
        route.is_some_and(|route| route.acts)
    }

    /// Learns from a connection, and returns what changes.
    pub(crate) fn saw(&mut self, connect: &Connect, now: Instant) -> Option<Change> {
        // The source address of any other choice is not the kernel's own.
        if connect.port_choice != Some(PortChoice::Default) {
            return None;
        }
        let key = key(connect)?;
        let (_, source) = address_words(connect.source?);
        if self.all.len() >= MOST_ROUTES as usize && !self.all.contains_key(&key) {
            self.dropped += 1;
            return None;
        }
        let is_full = self.when_above == 0
            || Taken::by(connect).is_some_and(|taken| taken.percent() >= self.when_above);
        let mut is_new = false;
        let route = self.all.entry(key).or_insert_with(|| {
            is_new = true;
            Route {
                source,
                acts: false,
                changes: 0,
                since: now,
                tested: 0,
                taken: 0,
            }
        });
        let is_moved = route.source != source;
        if is_moved {
            route.source = source;
            route.changes += 1;
        }
        route.since = now;
        let acted = route.acts;
        route.acts = (acted || is_full) && !route.is_ambiguous();
        (is_new || is_moved || route.acts != acted).then(|| Change::Set(key, route.state()))
    }

    /// Looks at what the programs found on the routes, and returns what changes. To be called regularly.
    pub(crate) fn look(
        &mut self,
        found: &[(RouteKey, RouteState, RouteCounts)],
        now: Instant,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, _, counts) in found {
            let Some(route) = self.all.get_mut(key) else {
                continue;
            };
            let tested = counts.tested.saturating_sub(route.tested);
            let taken = counts.taken.saturating_sub(route.taken);
            if tested < TESTED {
                continue;
            }
            (route.tested, route.taken) = (counts.tested, counts.taken);
            let percent = taken * 100 / tested;
            if route.acts && percent + u64::from(HYSTERESIS) < u64::from(self.when_above) {
                route.acts = false;
                changes.push(Change::Set(*key, route.state()));
            }
        }
        self.all.retain(|key, route| {
            let is_old = now.duration_since(route.since) >= FORGOTTEN_AFTER;
            if is_old {
                changes.push(Change::Remove(*key));
            }
            !is_old
        });
        changes
    }

    /// Returns the numbers of routes.
    pub(crate) fn counts(&self) -> RouteNumbers {
        let count = |of: fn(&Route) -> bool| self.all.values().filter(|route| of(route)).count();
        RouteNumbers {
            known: self.all.len() as u64,
            acting: count(|route| route.acts) as u64,
            ambiguous: count(Route::is_ambiguous) as u64,
            dropped: self.dropped,
        }
    }
}

impl Route {
    fn is_ambiguous(&self) -> bool {
        self.changes >= MOST_CHANGES
    }

    fn state(&self) -> RouteState {
        RouteState {
            source: self.source,
            acts: self.acts.into(),
        }
    }
}

/// Returns the key of the route of a connection, if its destination is known.
fn key(connect: &Connect) -> Option<RouteKey> {
    let to: SocketAddr = connect.destination?;
    let (family, destination) = address_words(to.ip());
    Some(RouteKey {
        netns: connect.netns.unwrap_or(0),
        family,
        destination_port: to.port(),
        destination,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    /// A connection whose search found these ports of a thousand taken.
    fn finding(taken: u32) -> Connect {
        Connect {
            scanned: Some(taken + 1),
            ..connect_from(20_001)
        }
    }

    fn acts(change: Option<Change>) -> Option<bool> {
        change.map(|change| match change {
            Change::Set(_, state) => state.acts == 1,
            Change::Remove(key) => panic!("{key:?} is removed"),
        })
    }

    #[test]
    fn a_mitigation_acts_on_a_route_once_a_search_finds_the_share_taken() {
        let now = Instant::now();
        let mut routes = Routes::new(50);
        assert_eq!(acts(routes.saw(&finding(2), now)), Some(false), "new");
        assert_eq!(routes.saw(&finding(999), now), None, "of 2,000 ports");
        assert!(!routes.acts_on(&finding(0)));
        assert_eq!(acts(routes.saw(&finding(1_000), now)), Some(true));
        assert!(routes.acts_on(&finding(0)));
        assert_eq!(routes.saw(&finding(1_001), now), None, "nothing changes");
        let elsewhere = Connect {
            destination: Some(([10, 9, 8, 7], 1).into()),
            ..finding(0)
        };
        assert!(!routes.acts_on(&elsewhere));
        assert_eq!(routes.counts().acting, 1);
    }

    #[test]
    fn without_a_share_it_acts_on_every_route_whose_source_is_known() {
        let now = Instant::now();
        let mut routes = Routes::new(0);
        let bound = Connect {
            port_choice: Some(PortChoice::Address),
            ..finding(0)
        };
        assert_eq!(routes.saw(&bound, now), None, "the program's own choice");
        assert_eq!(acts(routes.saw(&finding(0), now)), Some(true));
    }

    #[test]
    fn it_ends_when_few_of_the_tested_ports_are_taken() {
        let now = Instant::now();
        let mut routes = Routes::new(50);
        let Some(Change::Set(key, state)) = routes.saw(&finding(1_500), now) else {
            panic!("a new route");
        };
        let mut look = |tested, taken| {
            let found = RouteCounts { tested, taken };
            routes.look(&[(key, state, found)], now)
        };
        assert_eq!(look(99, 0), [], "too few");
        assert_eq!(look(200, 100), []);
        assert_eq!(look(400, 180), [], "40 % is within the hysteresis");
        let ended = look(600, 250);
        assert_eq!(ended.len(), 1, "35 %");
        assert_eq!(acts(Some(ended[0])), Some(false));
        assert_eq!(look(800, 250), [], "it has ended");
    }

    #[test]
    fn a_route_is_forgotten_after_a_while_and_learned_again() {
        let now = Instant::now();
        let mut routes = Routes::new(0);
        let Some(Change::Set(key, _)) = routes.saw(&finding(0), now) else {
            panic!("a new route");
        };
        assert_eq!(routes.look(&[], now), []);
        let later = now + FORGOTTEN_AFTER;
        assert_eq!(routes.look(&[], later), [Change::Remove(key)]);
        assert!(!routes.acts_on(&finding(0)));
        assert_eq!(acts(routes.saw(&finding(0), later)), Some(true));
    }

    #[test]
    fn a_route_with_changing_sources_is_left_alone() {
        let now = Instant::now();
        let mut routes = Routes::new(0);
        let from = |last: u8| Connect {
            source: Some([10, 0, 0, last].into()),
            ..finding(0)
        };
        assert_eq!(acts(routes.saw(&from(1), now)), Some(true));
        assert_eq!(acts(routes.saw(&from(2), now)), Some(true));
        assert_eq!(acts(routes.saw(&from(1), now)), Some(true));
        assert_eq!(acts(routes.saw(&from(2), now)), Some(false));
        assert_eq!(routes.saw(&from(2), now), None);
        assert_eq!(routes.counts().ambiguous, 1);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut routes = Routes::new(50);
        for number in 0..MOST_ROUTES + 5 {
            let [a, b, c, d] = number.to_be_bytes();
            let destination = Some(([a + 10, b, c, d], 80).into());
            routes.saw(
                &Connect {
                    destination,
                    ..finding(0)
                },
                now,
            );
        }
        let counts = routes.counts();
        assert_eq!((counts.known, counts.dropped), (u64::from(MOST_ROUTES), 5));
    }
}
