//! Routes that fill up, while a trace runs: the holders of their ports from records, the connections without records from
//! the kernel, and the forecast.

mod namespace;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use self::namespace::Namespace;
use crate::{
    clock::monotonic_ns,
    connect::{Connect, ConnectionEvent, SearchRange, TimeWaitSettings},
    kernel::cgroups,
    sockets::{PortMap, PortUse, Socket},
    stats::{
        exhaustion::{self, Taken},
        filling::{Filling, FillingRoute},
        flow::SECONDS,
        forecast::Situation,
        held_ports::HeldPorts,
        holders::{Holders, TIME_WAIT_NS, Use},
        route::Route,
        route_ports::RoutePorts,
    },
};

/// Share of the ports of its range from which on a route is shown, in percent.
const SHARE: u32 = 10;
/// Maximum number of routes that are shown, and of which the kernel is asked.
const MOST_ROUTES: usize = 10;
/// Pause between two looks at the table of holders.
const LOOK_EVERY_NS: u64 = 1_000_000_000;
/// Shortest time between two questions to the kernel about one route.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// The same, as a multiple of the time that the answer took: the kernel goes through all of its connections.
const ASK_PAUSE: u32 = 100;
/// Time for which a route is shown after a search has found half of its ports taken.
const WARNED_NS: u64 = 60_000_000_000;

/// Calls and ends of connections without records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// True if filters leave out connections, on whatever route.
    pub(crate) is_filtered: bool,
    /// True if filters leave out some of the connections of a route, such as those of other processes.
    pub(crate) splits_routes: bool,
    /// True if some calls have no record now, because of the overhead limit.
    pub(crate) is_reduced: bool,
    /// Number of calls and of ends since the start that were lost, or were not sampled.
    pub(crate) missed: u64,
}

/// The routes of a trace, with the holders of their ports.
pub(crate) struct RouteWatch {
    holders: Holders,
    /// Routes of which a search has found half of the ports taken, with the time of that.
    warned: HashMap<Route, u64>,
    /// Answers of the kernel.
    answers: HashMap<Route, Answer>,
    own: Namespace,
    looked_ns: u64,
    may_enter: bool,
    coverage: Coverage,
    /// Time at which the latest call was missed; `None` if none was.
    missed_ns: Option<u64>,
}

/// The answer of the kernel about a route.
#[derive(Debug)]
struct Answer {
    /// When the kernel may be asked again.
    again_ns: u64,
    /// Ports that no search takes.
    bound: BTreeSet<u16>,
    settings: Settings,
    refused: Option<String>,
}

/// The settings of the network namespace of a route.
#[derive(Clone, Debug, Default)]
struct Settings {
    range: Option<SearchRange>,
    reserved: Vec<crate::connect::PortRange>,
    time_wait: Option<TimeWaitSettings>,
}

impl RouteWatch {
    /// Creates the watch. With `may_enter`, other network namespaces than that of this process are entered to ask for their
    /// sockets, for which a service has no privileges left.
    pub(crate) fn new(may_enter: bool) -> Self {
        Self {
            holders: Holders::default(),
            warned: HashMap::new(),
            answers: HashMap::new(),
            own: Namespace::of_this_process(),
            looked_ns: 0,
            may_enter,
            coverage: Coverage::default(),
            missed_ns: None,
        }
    }

    /// Adds a connect().
    pub(crate) fn connect(&mut self, connect: &Connect) {
        self.holders.connect(connect);
        if Taken::by(connect).is_some_and(|taken| taken.percent() >= exhaustion::SHARE)
            && let Some(route) = Route::of(connect)
            && (self.warned.len() < exhaustion::MOST_ROUTES || self.warned.contains_key(&route))
        {
            self.warned.insert(route, connect.start_ns);
        }
    }

    /// Adds an event of a connection that is followed.
    pub(crate) fn ended(&mut self, event: &ConnectionEvent) {
        self.holders.ended(event);
    }

    /// Removes what is over, and asks the kernel about routes that fill up; does nothing more often than once a second. All
    /// records of before `read_ns` must have been read.
    pub(crate) fn look(&mut self, read_ns: u64, coverage: Coverage) {
        if read_ns < self.looked_ns + LOOK_EVERY_NS {
            return;
        }
        if coverage.missed > self.coverage.missed {
            self.missed_ns = Some(read_ns);
        }
        self.coverage = coverage;
        self.looked_ns = read_ns;
        self.holders.expire(read_ns);
        self.warned
            .retain(|_, warned_ns| read_ns < warned_ns.saturating_add(WARNED_NS));
        let (filling, _) = self.filling();
        self.answers.retain(|route, _| filling.contains(route));
        for route in filling {
            let answer = self.answers.get(&route);
            if answer.is_none_or(|answer| answer.again_ns <= read_ns) {
                self.ask(&route, None, read_ns);
            }
        }
    }

    /// Returns the share of its range that the route of a connect() holds, in percent, if it is known.
    pub(crate) fn percent_in_use(&self, connect: &Connect) -> Option<f64> {
        self.holders.percent_in_use(&Route::of(connect)?)
    }

    /// Returns the ports of the route of a connect() as the kernel has them now, with the holders that are known; `None` if
    /// the kernel does not answer.
    pub(crate) fn ports_of(&mut self, connect: &Connect) -> Option<RoutePorts> {
        let (route, now_ns) = (Route::of(connect)?, monotonic_ns());
        self.ask(&route, Some(connect.pid), now_ns);
        let found = self.of_route(&route, now_ns)?;
        found.records_alone.is_none().then_some(found.ports)
    }

    /// Returns the routes that fill up, the fullest first, and the number of others.
    fn filling(&self) -> (Vec<Route>, u64) {
        let holders = &self.holders;
        let least = |range: SearchRange| (range.ports.ports() * SHARE).div_ceil(100) as usize;
        let mut found: Vec<(Reverse<usize>, Route)> = holders
            .with_ports()
            .filter(|(route, ports)| {
                let range = holders.range(route);
                self.warned.contains_key(route) || range.is_some_and(|range| *ports >= least(range))
            })
            .map(|(route, ports)| (Reverse(ports), *route))
            .collect();
        found.sort_unstable();
        let more = found.len().saturating_sub(MOST_ROUTES) as u64;
        let routes = found.into_iter().take(MOST_ROUTES);
        (routes.map(|(_, route)| route).collect(), more)
    }

    /// Asks the kernel about a route. `process` is one in its network namespace, if another than a holder is known.
    fn ask(&mut self, route: &Route, process: Option<u32>, read_ns: u64) {
        let process = match self.may_enter {
            true => process.or_else(|| self.holders.any_process(route)),
            false => None,
        };
        let asked = self.own.ask(route, process);
        let answer = match asked {
            Ok(found) => {
                self.holders.reconcile(route, &found.connections, read_ns);
                let pause = ASK_EVERY.max(found.took * ASK_PAUSE);
                Answer {
                    again_ns: read_ns.saturating_add(pause.as_nanos() as u64),
                    bound: found.bound,
                    settings: found.settings,
                    refused: None,
                }
            }
            Err(refused) => Answer {
                again_ns: read_ns.saturating_add(ASK_EVERY.as_nanos() as u64),
                bound: BTreeSet::new(),
                settings: Settings::default(),
                refused: Some(refused),
            },
        };
        self.answers.insert(*route, answer);
    }

    /// Returns the routes that fill up. All records of before `read_ns` must have been read.
    pub(crate) fn report(&mut self, read_ns: u64) -> Filling {
        self.holders.expire(read_ns);
        let (filling, more) = self.filling();
        for route in &filling {
            if !self.answers.contains_key(route) {
                self.ask(route, None, read_ns);
            }
        }
        let routes = filling
            .iter()
            .filter_map(|route| self.of_route(route, read_ns));
        let mut routes: Vec<FillingRoute> = routes.collect();
        routes.sort_by_key(|filling| Reverse(per_mille(filling)));
        let holders = routes.iter().flat_map(|filling| &filling.ports.holders);
        let cgroups: HashSet<u64> = holders.filter_map(|held| held.holder.cgroup_id).collect();
        Filling {
            routes,
            cgroups: cgroups::paths(&cgroups),
            more,
            dropped: self.holders.dropped(),
        }
    }

    /// Returns a route as it is shown; `None` if its range is not known.
    fn of_route(&self, route: &Route, now_ns: u64) -> Option<FillingRoute> {
        let answer = self.answers.get(route);
        let unasked = Settings::default();
        let settings = answer.map_or(&unasked, |answer| &answer.settings);
        let range = self.holders.range(route).or(settings.range)?;
        let mut map = PortMap::new(range.ports, &settings.reserved);
        let bound = answer.into_iter().flat_map(|answer| answer.bound.iter());
        for port in bound.copied().chain(self.holders.bound_elsewhere(route)) {
            map.set(port, PortUse::Listener);
        }
        let uses: Vec<Use> = self.holders.uses(route, now_ns).collect();
        let connections = uses.iter().map(|used| {
            let socket = Socket {
                local: SocketAddr::new(route.source, used.port),
                remote: route.destination,
                state: used.state,
                uid: 0,
                inode: 0,
                cgroup_id: None,
                expires: None,
            };
            (socket, used.holder.unwrap_or_default())
        });
        let ports = RoutePorts::of(*route, map, connections);
        let flow = self.holders.flow(route);
        let history = flow.map(|flow| flow.window(now_ns)).unwrap_or_default();
        let mut situation = situation(&ports, &uses, settings.time_wait, now_ns);
        situation.first = range.by_parity.then_some(range.ports.low % 2);
        situation.history = history;
        situation.is_incomplete = self.is_incomplete(now_ns);
        Some(FillingRoute {
            forecast: situation.forecast(),
            ports,
            records_alone: answer.and_then(|answer| answer.refused.clone()),
        })
    }

    /// Returns true if the changes of routes in the history of a forecast are not all known.
    fn is_incomplete(&self, now_ns: u64) -> bool {
        let history_ns = SECONDS as u64 * 1_000_000_000;
        let of_late = |missed_ns: u64| now_ns < missed_ns.saturating_add(history_ns);
        let Coverage {
            splits_routes,
            is_reduced,
            ..
        } = self.coverage;
        splits_routes || is_reduced || self.missed_ns.is_some_and(of_late)
    }

    /// Returns the holders of all ports, for `/ports`.
    pub(crate) fn known(&self) -> HeldPorts {
        let Coverage {
            is_filtered,
            is_reduced,
            missed,
            ..
        } = self.coverage;
        self.holders
            .known(!is_filtered && !is_reduced && missed == 0)
    }
}

/// Returns how many ports of a route can be taken, how many are, and when those in TIME_WAIT can be taken again.
fn situation(
    ports: &RoutePorts,
    uses: &[Use],
    time_wait: Option<TimeWaitSettings>,
    now_ns: u64,
) -> Situation {
    let is_loopback = ports.route.destination.ip().is_loopback();
    let delay_ns = time_wait
        .filter(|settings| settings.reuses(is_loopback))
        .map(|settings| u64::from(settings.reuse_delay_ms) * 1_000_000);
    let hold_ns = delay_ns.unwrap_or(TIME_WAIT_NS);
    let mut situation = Situation {
        capacity: [0, 1].map(|parity| {
            let counts = ports.map.counts(parity);
            counts.total() - counts.of(PortUse::Reserved) - counts.of(PortUse::Listener)
        }),
        hold_s: hold_ns as f64 / 1e9,
        reuses: delay_ns.is_some(),
        ..Situation::default()
    };
    for used in uses.iter().filter(|used| ports.range.contains(used.port)) {
        let parity = usize::from(used.port % 2);
        match used
            .ended_ns
            .map(|ended_ns| ended_ns.saturating_add(hold_ns))
        {
            Some(leaves_ns) if leaves_ns <= now_ns => continue,
            Some(leaves_ns) => {
                situation.leaving_s[parity].push((leaves_ns - now_ns) as f64 / 1e9);
            }
            None => {}
        }
        situation.taken[parity] += 1;
    }
    situation
}

/// Returns the share of its ports that connections of a route hold, in thousandths.
fn per_mille(filling: &FillingRoute) -> u32 {
    let counts = filling.ports.map.all_counts();
    counts.held() * 1_000 / counts.total().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Fate, PortChoice, SourcePort},
        fixtures::connect_from,
        stats::forecast::{Outlook, Reason},
    };

    const S: u64 = 1_000_000_000;

    /// Returns a connect() in a network namespace that no process has.
    fn at(start_ns: u64, port: u16) -> Connect {
        Connect {
            start_ns,
            netns: Some(1),
            ..connect_from(port)
        }
    }

    /// Adds 20 connections a second on the even ports from 20000 on, one of which ends in TIME_WAIT, and looks each second.
    fn fill(watch: &mut RouteWatch, seconds: std::ops::Range<u64>, missed: u64) {
        for second in seconds {
            for nth in 0..20 {
                let number = second * 20 + nth;
                let connect = at(second * S + nth * S / 20, 20_000 + 2 * number as u16);
                watch.connect(&connect);
                if nth == 0 {
                    watch.ended(&ConnectionEvent {
                        connect,
                        handshake_ns: None,
                        syn_retransmits: None,
                        fate: Fate::ClosedHere,
                        end_ns: Some(connect.start_ns + 1),
                        errno: 0,
                    });
                }
            }
            let coverage = Coverage {
                missed,
                ..Coverage::default()
            };
            watch.look((second + 1) * S, coverage);
        }
    }

    #[test]
    fn a_route_that_fills_up_is_shown_with_its_end() {
        let mut watch = RouteWatch::new(false);
        fill(&mut watch, 0..9, 0);
        assert_eq!(watch.report(9 * S).routes, [], "180 of 2,000 ports");
        fill(&mut watch, 9..20, 0);
        let filling = watch.report(20 * S);
        let [route] = &filling.routes[..] else {
            panic!("{filling:?}");
        };
        let counts = route.ports.map.all_counts();
        let of = |made| counts.of(made);
        assert_eq!((of(PortUse::Open), of(PortUse::TimeWait)), (380, 20));
        let held = route.ports.holders[0].ports;
        assert_eq!((held.open, held.time_wait), (380, 20));
        let why = route.records_alone.as_deref();
        assert_eq!(why, Some("it is in another network namespace"));
        // 600 even ports are left, and none leaves TIME_WAIT before.
        let second_pass = route.forecast.second_pass.unwrap();
        assert_eq!(second_pass.seconds(), Some(30.0));
        // After 60 s, one port a second leaves TIME_WAIT: those of the first 20 s, then those of later ones.
        let end = route.forecast.exhausted.prediction().unwrap();
        assert!(
            (end.seconds - (1_600.0 + 20.0) / 19.0).abs() < 4.0,
            "{end:?}"
        );
    }

    #[test]
    fn nothing_is_predicted_from_records_that_are_incomplete() {
        let mut watch = RouteWatch::new(false);
        fill(&mut watch, 0..20, 7);
        let unpredicted = Outlook::Unpredicted(Reason::Incomplete);
        let exhausted = |watch: &mut RouteWatch, now_s: u64| {
            let filling = watch.report(now_s * S);
            filling.routes[0].forecast.exhausted
        };
        assert_eq!(exhausted(&mut watch, 20), unpredicted);
        assert!(!watch.known().complete);
        let mut watch = RouteWatch::new(false);
        fill(&mut watch, 0..20, 0);
        assert!(exhausted(&mut watch, 20).prediction().is_some());
        assert!(watch.known().complete);
        watch.coverage.splits_routes = true;
        assert_eq!(exhausted(&mut watch, 20), unpredicted);
    }

    #[test]
    fn ports_that_bind_gave_to_other_routes_are_no_room() {
        let mut watch = RouteWatch::new(false);
        fill(&mut watch, 0..20, 0);
        for (port, port_choice) in [
            (20_001, PortChoice::Bind),
            (20_003, PortChoice::ExplicitPort),
            (20_005, PortChoice::Default),
        ] {
            watch.connect(&Connect {
                port: SourcePort::Bound(port),
                port_choice: Some(port_choice),
                destination: Some(([10, 0, 0, 9], 80).into()),
                ..at(S, port)
            });
        }
        let filling = watch.report(20 * S);
        let counts = filling.routes[0].ports.map.all_counts();
        assert_eq!(counts.of(PortUse::Listener), 2);
    }

    #[test]
    fn a_route_is_shown_for_a_minute_after_a_search_found_half_of_its_ports_taken() {
        let mut watch = RouteWatch::new(false);
        watch.connect(&Connect {
            scanned: Some(1_500),
            ..at(S, 20_001)
        });
        assert_eq!(watch.report(2 * S).routes.len(), 1);
        watch.look(61 * S, Coverage::default());
        assert_eq!(watch.report(61 * S).routes.len(), 0);
    }
}
