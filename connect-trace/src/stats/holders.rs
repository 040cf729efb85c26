//! Holders of ports, from records: the process behind each port of each route, until the kernel gives the port free. That
//! is the end of the connection, or a minute later if this side closed first: the kernel then knows no owner any more.

use std::collections::{HashMap, hash_map};

use super::{
    flow::{Change, Flow},
    held_ports::{HeldPorts, HeldRoute, PortHolder},
    route::Route,
    route_ports::Holder,
};
use crate::{
    connect::{Connect, ConnectionEvent, Fate, PortChoice, SearchRange},
    sockets::{Socket, State},
};

/// Largest number of ports that are kept, of all routes together: some 32 bytes each.
pub const MOST_PORTS: usize = 262_144;
/// Largest number of routes that are kept apart, some 300 bytes each.
pub const MOST_ROUTES: usize = 16_384;
/// Number of ports of a route from which on its changes are counted by second, in two kilobytes.
const PORTS_WITH_FLOW: usize = 32;

/// Time for which the kernel keeps the port of a connection that this side closed first (`TCP_TIMEWAIT_LEN`).
pub const TIME_WAIT_NS: u64 = 60_000_000_000;
/// Time for which the end of a connection is kept whose connect() has not been read. Both ring buffers are read within this
/// time, or records are lost.
const LATE_NS: u64 = 10_000_000_000;

/// The ports of all routes with their holders, in bounded memory: if it is full, the routes without news for longest are
/// dropped.
#[derive(Debug, Default)]
pub struct Holders {
    routes: HashMap<Route, RouteHolders>,
    interned: Interned,
    /// Number of ports in `routes`.
    ports: usize,
    dropped: u64,
}

/// The ports of a route.
#[derive(Debug, Default)]
struct RouteHolders {
    ports: HashMap<u16, Held>,
    /// Sockets that the kernel told of, and that have no record: the connections of before the start, for example.
    unknown: HashMap<u16, Unknown>,
    /// The ports from which connect() chooses.
    range: Option<SearchRange>,
    /// True if `range` is a socket's own one.
    is_own_range: bool,
    /// Time of the latest event.
    last_ns: u64,
    flow: Option<Box<Flow>>,
}

/// A port that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    started_ns: u64,
    /// Time of the end; 0 before it.
    ended_ns: u64,
    /// Index of the holder.
    holder: u32,
    /// The state that the kernel told of last.
    state: State,
    /// True if the port is free again, and only the connect() of this connection is yet to be read.
    is_over: bool,
    /// True if the kernel did not have the connection any more when it was asked last: its end is yet to be read, or was
    /// missed.
    is_missing: bool,
}

/// A socket without a record.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    state: State,
    /// Time at which the kernel frees the port, if it is known.
    expires_ns: Option<u64>,
    cgroup_id: Option<u64>,
}

/// The use of a port by a connection of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The port.
    pub port: u16,
    /// State of the connection, as far as it is known: the kernel is asked at times only.
    pub state: State,
    /// Time of the end of the connection, from which on the kernel keeps the port without a process; `None` before it.
    pub ended_ns: Option<u64>,
    /// The holder, as far as it is known.
    pub holder: Option<Holder>,
}

impl Holders {
    /// Adds a connect(). Only those that were successful count, of TCP.
    pub fn connect(&mut self, connect: &Connect) {
        if connect.errno == 0 {
            self.open(connect);
        }
    }

    /// Adds an event of a connection that is followed, which may come before its connect().
    pub fn ended(&mut self, event: &ConnectionEvent) {
        // An event has the whole record of its connect(), which may be yet to come, or lost.
        let found = self.open(&event.connect);
        let (Some(ended_ns), Some(Found { route, port, known })) = (event.end_ns, found) else {
            return;
        };
        let Some(of_route) = self.routes.get_mut(&route) else {
            return;
        };
        let Some(held) = of_route.ports.get_mut(&port) else {
            return;
        };
        of_route.last_ns = of_route.last_ns.max(ended_ns);
        held.ended_ns = ended_ns;
        held.state = State::TimeWait;
        let change = match (event.fate, known) {
            (Fate::ClosedHere, _) => Change::Kept,
            (_, false) => {
                held.is_over = true;
                Change::Freed
            }
            (_, true) => {
                self.interned.release(held.holder);
                of_route.ports.remove(&port);
                self.ports -= 1;
                Change::Freed
            }
        };
        of_route.changed(port, change, ended_ns);
    }

    /// Puts a connection in, unless it is known, or a later one has its port.
    fn open(&mut self, connect: &Connect) -> Option<Found> {
        if connect.kind.protocol.is_udp() {
            return None;
        }
        let (route, port) = (Route::of(connect)?, connect.port.number()?);
        if self.ports >= MOST_PORTS
            || self.routes.len() >= MOST_ROUTES && !self.routes.contains_key(&route)
        {
            self.drop_oldest();
        }
        let of_route = self.routes.entry(route).or_default();
        of_route.last_ns = of_route.last_ns.max(connect.start_ns);
        of_route.saw_range(connect);
        of_route.unknown.remove(&port);
        let change = match of_route.ports.entry(port) {
            hash_map::Entry::Occupied(mut occupied) => {
                let held = occupied.get_mut();
                if held.started_ns >= connect.start_ns {
                    let is_this = held.started_ns == connect.start_ns && held.ended_ns == 0;
                    return is_this.then_some(Found {
                        route,
                        port,
                        known: true,
                    });
                }
                self.interned.release(held.holder);
                let change = match (held.ended_ns, held.is_over) {
                    // The end of the earlier connection was not seen: the port was taken, and still is.
                    (0, _) => None,
                    (_, true) => Some(Change::Opened),
                    (ended, false) if ended.saturating_add(TIME_WAIT_NS) <= connect.start_ns => {
                        Some(Change::Opened)
                    }
                    (_, false) => Some(Change::Reused),
                };
                *held = self.interned.hold(connect);
                change
            }
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(self.interned.hold(connect));
                self.ports += 1;
                Some(Change::Opened)
            }
        };
        if of_route.flow.is_none() && of_route.ports.len() >= PORTS_WITH_FLOW {
            of_route.flow = Some(Box::new(Flow::new(connect.start_ns)));
        }
        if let Some(change) = change {
            of_route.changed(port, change, connect.start_ns);
        }
        Some(Found {
            route,
            port,
            known: false,
        })
    }

    /// Removes what the kernel has given free by now: to be called once a second or so.
    pub fn expire(&mut self, now_ns: u64) {
        let Self {
            routes,
            interned,
            ports,
            ..
        } = self;
        routes.retain(|_, of_route| {
            of_route.ports.retain(|_, held| {
                let keeps = held.is_kept(now_ns);
                if !keeps {
                    interned.release(held.holder);
                    *ports -= 1;
                }
                keeps
            });
            let is_kept = |expires: u64| expires > now_ns;
            of_route
                .unknown
                .retain(|_, unknown| unknown.expires_ns.is_none_or(is_kept));
            !of_route.ports.is_empty() || !of_route.unknown.is_empty()
        });
    }

    /// Takes the connections that the kernel has on a route: a connection that it has forgotten counts no more, and is removed
    /// the next time; what it alone knows is kept without a holder. All records of before `asked_ns` must have been read, and
    /// the kernel must have been asked later.
    pub fn reconcile<'a>(
        &mut self,
        route: &Route,
        sockets: impl IntoIterator<Item = &'a Socket>,
        asked_ns: u64,
    ) {
        let of_route = self.routes.entry(*route).or_default();
        let mut told: HashMap<u16, Unknown> = sockets
            .into_iter()
            .map(|socket| {
                // The kernel starts the timer after it has put the socket into TIME_WAIT.
                let left = socket.expires.filter(|left| !left.is_zero());
                let left = left.map(|left| left.as_nanos() as u64);
                let unknown = Unknown {
                    // A socket in FIN_WAIT2 without a process goes into TIME_WAIT without an event: the kernel keeps its port
                    // in either case.
                    state: match left {
                        Some(_) => State::TimeWait,
                        None => socket.state,
                    },
                    expires_ns: left.map(|left| asked_ns.saturating_add(left)),
                    cgroup_id: socket.cgroup_id,
                };
                (socket.local.port(), unknown)
            })
            .collect();
        let Self {
            interned, ports, ..
        } = self;
        of_route.ports.retain(|port, held| {
            let is_later = held.started_ns > asked_ns || held.ended_ns > asked_ns;
            let keeps = match told.remove(port) {
                _ if is_later => true,
                None => held.is_over || !std::mem::replace(&mut held.is_missing, true),
                Some(unknown) => {
                    held.is_missing = false;
                    held.state = unknown.state;
                    if let Some(expires_ns) = unknown.expires_ns {
                        held.is_over = false;
                        held.ended_ns = expires_ns.saturating_sub(TIME_WAIT_NS).max(1);
                    }
                    true
                }
            };
            if !keeps {
                interned.release(held.holder);
                *ports -= 1;
            }
            keeps
        });
        of_route.unknown = told;
    }

    /// Returns the connections of a route, as of `now_ns`.
    pub fn uses(&self, route: &Route, now_ns: u64) -> impl Iterator<Item = Use> {
        self.routes
            .get(route)
            .into_iter()
            .flat_map(move |of_route| {
                let held = of_route.ports.iter();
                let held = held.filter(move |(_, held)| held.is_in_use() && held.is_kept(now_ns));
                let known = held.map(|(&port, held)| Use {
                    port,
                    state: held.state,
                    ended_ns: (held.ended_ns != 0).then_some(held.ended_ns),
                    holder: Some(self.interned.holder(held.holder)),
                });
                let unknown = of_route.unknown.iter();
                let unknown = unknown
                    .filter(move |(_, unknown)| unknown.expires_ns.is_none_or(|at| at > now_ns));
                known.chain(unknown.map(|(&port, unknown)| {
                    Use {
                        port,
                        state: unknown.state,
                        ended_ns: unknown
                            .expires_ns
                            .map(|expires_ns| expires_ns.saturating_sub(TIME_WAIT_NS)),
                        holder: unknown.cgroup_id.map(|cgroup_id| Holder {
                            cgroup_id: Some(cgroup_id),
                            ..Holder::default()
                        }),
                    }
                }))
            })
    }

    /// Returns all routes, with the numbers of their ports.
    pub fn with_ports(&self) -> impl Iterator<Item = (&Route, usize)> {
        let routes = self.routes.iter();
        routes.map(|(route, held)| (route, held.ports.len() + held.unknown.len()))
    }

    /// Returns the latest process that holds a port of a route.
    #[must_use]
    pub fn any_process(&self, route: &Route) -> Option<u32> {
        let held = self.routes.get(route)?.ports.values();
        let latest = held.max_by_key(|held| held.started_ns)?;
        self.interned.holder(latest.holder).pid
    }

    /// Returns the share of the range of a route that its connections hold, in percent; `None` if the range is not known, or
    /// is that of a socket.
    #[must_use]
    pub fn percent_in_use(&self, route: &Route) -> Option<f64> {
        let held = self.routes.get(route).filter(|held| !held.is_own_range)?;
        let ports = held.ports.len() + held.unknown.len();
        Some(ports as f64 * 100.0 / f64::from(held.range?.ports.ports()))
    }

    /// Returns the ports from which connect() chooses on a route, as the latest record with a search says.
    #[must_use]
    pub fn range(&self, route: &Route) -> Option<SearchRange> {
        self.routes.get(route)?.range
    }

    /// Returns the changes of the ports of a route, if it has enough ports to count them.
    #[must_use]
    pub fn flow(&self, route: &Route) -> Option<&Flow> {
        self.routes.get(route)?.flow.as_deref()
    }

    /// Returns the ports that connections of other routes in the same network namespace have by bind(): no search takes them.
    pub fn bound_elsewhere(&self, route: &Route) -> impl Iterator<Item = u16> {
        let others = self.routes.iter();
        let others = others.filter(move |(other, _)| other.netns == route.netns && *other != route);
        others.flat_map(|(_, of_route)| {
            let bound = of_route.ports.iter().filter(|(_, held)| {
                let choice = self.interned.holder(held.holder).port_choice;
                let by_bind = matches!(choice, Some(PortChoice::Bind | PortChoice::ExplicitPort));
                by_bind && held.is_in_use()
            });
            bound.map(|(&port, _)| port)
        })
    }

    /// Returns the number of ports that were dropped for lack of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns all ports whose holders are known, for another process. `is_complete` says that every call had a record.
    #[must_use]
    pub fn known(&self, is_complete: bool) -> HeldPorts {
        let mut routes: Vec<HeldRoute> = self
            .routes
            .iter()
            .filter(|(_, held)| !held.ports.is_empty())
            .map(|(route, held)| self.known_of(route, held))
            .collect();
        routes.sort_by_key(|known| (known.netns, known.source, known.destination));
        HeldPorts {
            complete: is_complete && self.dropped == 0,
            routes,
        }
    }

    fn known_of(&self, route: &Route, held: &RouteHolders) -> HeldRoute {
        let mut places: HashMap<u32, u32> = HashMap::new();
        let mut holders = Vec::new();
        let mut ports: Vec<(u16, u32)> = Vec::new();
        // A reader has an answer of the kernel of its own, and the one that a port was missing in is no snapshot.
        for (&port, held) in held.ports.iter().filter(|(_, held)| !held.is_over) {
            let place = *places.entry(held.holder).or_insert_with(|| {
                holders.push(port_holder(self.interned.holder(held.holder)));
                holders.len() as u32 - 1
            });
            ports.push((port, place));
        }
        ports.sort_unstable();
        HeldRoute {
            netns: route.netns,
            source: route.source,
            destination: route.destination,
            holders,
            ports,
        }
    }

    /// Makes room: drops the routes without news for longest, a sixteenth of the most in all, so that this is rare.
    #[cold]
    fn drop_oldest(&mut self) {
        let mut oldest: Vec<(u64, Route)> = self
            .routes
            .iter()
            .map(|(route, held)| (held.last_ns, *route))
            .collect();
        oldest.sort_unstable();
        for (_, route) in oldest {
            let has_room = |has: usize, most: usize| has <= most - most / 16;
            if has_room(self.ports, MOST_PORTS) && has_room(self.routes.len(), MOST_ROUTES) {
                return;
            }
            let Some(gone) = self.routes.remove(&route) else {
                continue;
            };
            for held in gone.ports.values() {
                self.interned.release(held.holder);
                self.dropped += u64::from(!held.is_over);
            }
            self.ports -= gone.ports.len();
        }
    }
}

/// The place of a connection.
struct Found {
    route: Route,
    port: u16,
    /// True if it was there before.
    known: bool,
}

impl RouteHolders {
    /// Counts a change, if the port is one that connect() chooses.
    fn changed(&mut self, port: u16, change: Change, at_ns: u64) {
        let is_chosen = |range: SearchRange| (range.ports.low..=range.ports.high).contains(&port);
        if self.range.is_none_or(is_chosen)
            && let Some(flow) = &mut self.flow
        {
            flow.add(port, change, at_ns);
        }
    }

    /// Takes the range of a search. That of the namespace counts, if any search used it.
    fn saw_range(&mut self, connect: &Connect) {
        let is_own = connect.port_choice == Some(PortChoice::Range);
        if let Some(range) = connect.range
            && (self.range.is_none() || self.is_own_range || !is_own)
        {
            self.range = Some(range);
            self.is_own_range = is_own;
        }
    }
}

impl Held {
    fn is_kept(&self, now_ns: u64) -> bool {
        let kept_ns = match (self.ended_ns, self.is_over) {
            (0, _) => return true,
            (_, true) => LATE_NS,
            (_, false) => TIME_WAIT_NS,
        };
        self.ended_ns.saturating_add(kept_ns) > now_ns
    }

    fn is_in_use(&self) -> bool {
        !self.is_over && !self.is_missing
    }
}

/// Holders by number, each once, with the number of their ports.
#[derive(Debug, Default)]
struct Interned {
    numbers: HashMap<Holder, u32>,
    holders: Vec<(Holder, u32)>,
    free: Vec<u32>,
}

impl Interned {
    /// Returns a port that the maker of a connection holds from now on.
    fn hold(&mut self, connect: &Connect) -> Held {
        let holder = Holder {
            pid: Some(connect.pid),
            comm: Some(connect.comm),
            cgroup_id: Some(connect.cgroup_id),
            port_choice: connect.port_choice,
        };
        let number = *self.numbers.entry(holder).or_insert_with(|| {
            if let Some(number) = self.free.pop() {
                self.holders[number as usize] = (holder, 0);
                return number;
            }
            self.holders.push((holder, 0));
            self.holders.len() as u32 - 1
        });
        self.holders[number as usize].1 += 1;
        Held {
            started_ns: connect.start_ns,
            ended_ns: 0,
            holder: number,
            state: State::Established,
            is_over: false,
            is_missing: false,
        }
    }

    fn release(&mut self, number: u32) {
        let (holder, ports) = &mut self.holders[number as usize];
        *ports -= 1;
        if *ports == 0 {
            self.numbers.remove(holder);
            self.free.push(number);
        }
    }

    fn holder(&self, number: u32) -> Holder {
        self.holders[number as usize].0
    }
}

fn port_holder(holder: Holder) -> PortHolder {
    PortHolder {
        pid: holder.pid.unwrap_or(0),
        comm: holder.comm.map(|comm| comm.to_string()).unwrap_or_default(),
        cgroup_id: holder.cgroup_id.unwrap_or(0),
        strategy: holder.port_choice.map(|choice| choice.name().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        connect::{Comm, SourcePort},
        fixtures::connect_from,
        sockets::{PortUse, State},
    };

    const S: u64 = 1_000_000_000;

    fn at(start_s: u64, pid: u32, port: u16) -> Connect {
        Connect {
            start_ns: start_s * S,
            pid,
            comm: Comm::of("client"),
            ..connect_from(port)
        }
    }

    fn event(connect: Connect, fate: Fate, end_s: Option<u64>) -> ConnectionEvent {
        ConnectionEvent {
            connect,
            handshake_ns: Some(1),
            syn_retransmits: Some(0),
            fate,
            end_ns: end_s.map(|end_s| end_s * S),
            errno: 0,
        }
    }

    fn route() -> Route {
        Route::of(&connect_from(1)).unwrap()
    }

    /// Returns the ports of the route with their uses and processes, at a second.
    fn uses(holders: &Holders, now_s: u64) -> Vec<(u16, PortUse, Option<u32>)> {
        let route = route();
        let uses = holders.uses(&route, now_s * S);
        let mut uses: Vec<_> = uses
            .map(|used| {
                (
                    used.port,
                    PortUse::of(used.state),
                    used.holder.and_then(|holder| holder.pid),
                )
            })
            .collect();
        uses.sort();
        uses
    }

    #[test]
    fn a_port_has_its_holder_until_the_kernel_frees_it() {
        use PortUse::{Open, TimeWait};
        let mut holders = Holders::default();
        for (port, pid) in [(20_000, 7), (20_002, 7), (20_004, 8)] {
            let connect = at(1, pid, port);
            holders.connect(&connect);
            holders.ended(&event(connect, Fate::Established, None));
        }
        holders.connect(&Connect {
            errno: libc::ECONNREFUSED,
            ..at(1, 9, 20_006)
        });
        holders.ended(&event(at(1, 7, 20_000), Fate::ClosedHere, Some(2)));
        holders.ended(&event(at(1, 8, 20_004), Fate::ClosedByPeer, Some(2)));
        let both = [(20_000, TimeWait, Some(7)), (20_002, Open, Some(7))];
        assert_eq!(uses(&holders, 61), both);
        assert_eq!(uses(&holders, 62), both[1..]);
        holders.expire(62 * S);
        assert_eq!((holders.ports, holders.interned.numbers.len()), (1, 1));
        assert_eq!(uses(&holders, 3), both[1..]);
        holders.ended(&event(at(1, 7, 20_002), Fate::Reset, Some(63)));
        holders.expire(64 * S);
        assert!(holders.routes.is_empty() && holders.interned.numbers.is_empty());
    }

    #[test]
    fn an_end_may_be_read_before_its_connect_and_after_the_next_one() {
        let mut holders = Holders::default();
        let (first, second) = (at(1, 7, 20_000), at(3, 8, 20_000));
        holders.ended(&event(first, Fate::Reset, Some(2)));
        assert_eq!(uses(&holders, 2), []);
        holders.connect(&first);
        assert_eq!(uses(&holders, 2), [], "it was over");
        holders.connect(&second);
        let held = [(20_000, PortUse::Open, Some(8))];
        assert_eq!(uses(&holders, 3), held);
        holders.ended(&event(first, Fate::ClosedHere, Some(2)));
        assert_eq!(uses(&holders, 3), held, "an earlier connection");
        holders.ended(&event(second, Fate::Reset, Some(4)));
        holders.ended(&event(at(5, 9, 20_002), Fate::Refused, Some(5)));
        assert_eq!(holders.ports, 1);
        holders.expire(16 * S);
        assert_eq!(holders.ports, 0);
    }

    #[test]
    fn a_port_in_time_wait_that_is_taken_again_has_the_new_holder() {
        let mut holders = Holders::default();
        holders.connect(&at(1, 7, 20_000));
        holders.ended(&event(at(1, 7, 20_000), Fate::ClosedHere, Some(2)));
        holders.connect(&at(4, 8, 20_000));
        assert_eq!(uses(&holders, 5), [(20_000, PortUse::Open, Some(8))]);
        assert_eq!(holders.interned.numbers.len(), 1);
    }

    #[test]
    fn changes_are_those_of_the_range() {
        let mut holders = Holders::default();
        for port in 0..40 {
            holders.connect(&at(1, 7, 20_000 + port));
        }
        let bound = Connect {
            port: SourcePort::Bound(30_000),
            range: None,
            ..at(2, 7, 0)
        };
        holders.connect(&bound);
        for (second, port) in [(2, 21_000), (2, 21_001), (3, 21_002)] {
            holders.connect(&at(second, 7, port));
        }
        holders.ended(&event(at(2, 7, 21_000), Fate::ClosedHere, Some(3)));
        holders.connect(&at(4, 7, 21_000));
        holders.ended(&event(at(4, 7, 21_000), Fate::ClosedByPeer, Some(4)));
        let window = holders.flow(&route()).unwrap().window(5 * S);
        let changes = |opened, reused, freed, kept| super::super::flow::Changes {
            opened,
            reused,
            freed,
            kept,
        };
        let expected = [
            [changes(1, 0, 0, 0), changes(1, 0, 0, 0)],
            [changes(1, 0, 0, 1), changes(0, 0, 0, 0)],
            [changes(0, 1, 1, 0), changes(0, 0, 0, 0)],
        ];
        assert_eq!(window, expected);
    }

    #[test]
    fn the_kernel_decides_which_connections_there_are() {
        let mut holders = Holders::default();
        for port in [20_000, 20_002, 20_004, 20_008] {
            holders.connect(&at(1, 7, port));
        }
        holders.ended(&event(at(1, 7, 20_004), Fate::ClosedHere, Some(2)));
        holders.connect(&at(11, 7, 20_010));
        let socket = |port, state, expires| Socket {
            local: SocketAddr::from(([127, 0, 0, 1], port)),
            remote: route().destination,
            state,
            uid: 0,
            inode: 0,
            cgroup_id: (state == State::Established).then_some(5),
            expires,
        };
        let in_s = |seconds| Some(Duration::from_secs(seconds));
        let sockets = [
            socket(20_002, State::Established, None),
            // Its peer closed late, so that the minute began late.
            socket(20_004, State::TimeWait, in_s(59)),
            socket(20_006, State::TimeWait, in_s(5)),
            socket(20_007, State::Established, None),
            socket(20_008, State::FinWait2, in_s(50)),
        ];
        holders.reconcile(&route(), &sockets, 10 * S);
        use PortUse::{Open, TimeWait};
        let known = |port, made| (port, made, Some(7));
        let all = [
            known(20_002, Open),
            known(20_004, TimeWait),
            (20_006, TimeWait, None),
            (20_007, Open, None),
            known(20_008, TimeWait),
            known(20_010, Open),
        ];
        assert_eq!(uses(&holders, 14), all);
        assert_eq!(
            holders.ports, 5,
            "the end of a connection may be yet to come"
        );
        let told = holders
            .uses(&route(), 14 * S)
            .find(|used| used.port == 20_007);
        assert_eq!(told.unwrap().holder.unwrap().cgroup_id, Some(5));
        assert_eq!(uses(&holders, 15), [&all[..2], &all[3..]].concat());
        holders.connect(&at(16, 8, 20_007));
        holders.expire(69 * S);
        let left = [
            known(20_002, Open),
            (20_007, Open, Some(8)),
            known(20_010, Open),
        ];
        assert_eq!(uses(&holders, 69), left);
        holders.reconcile(&route(), &[], 70 * S);
        holders.ended(&event(at(16, 8, 20_007), Fate::Reset, Some(71)));
        holders.reconcile(&route(), &[], 72 * S);
        assert_eq!((holders.ports, uses(&holders, 72)), (0, vec![]));
    }

    #[test]
    fn the_memory_is_bounded_and_the_routes_with_news_stay() {
        let mut holders = Holders::default();
        let of = |second, netns, port| Connect {
            netns: Some(netns),
            ..at(second, netns, port)
        };
        // The oldest route fills, and is kept as long as there is news.
        for netns in 1..=MOST_ROUTES as u32 + 1 {
            holders.connect(&of(u64::from(netns), netns, 20_000));
            holders.connect(&of(u64::from(netns), 0, (netns % 60_000) as u16 + 1));
            assert!(holders.routes.len() <= MOST_ROUTES && holders.ports <= MOST_PORTS);
        }
        assert_eq!(holders.dropped, MOST_ROUTES as u64 / 16);
        let last = Route {
            netns: Some(0),
            ..route()
        };
        let (fullest, ports) = holders
            .with_ports()
            .max_by_key(|(_, ports)| *ports)
            .unwrap();
        assert_eq!((*fullest, ports), (last, MOST_ROUTES + 1));
        for netns in 0..10 {
            for port in 1..=u16::MAX {
                holders.connect(&of(100_000 + u64::from(netns), netns, port));
                assert!(holders.ports <= MOST_PORTS);
            }
        }
        let ports: usize = holders.routes.values().map(|held| held.ports.len()).sum();
        assert_eq!(holders.ports, ports);
        assert!(!holders.known(true).complete);
    }

    #[test]
    fn what_is_told_to_others_names_each_holder_once() {
        let mut holders = Holders::default();
        for (port, pid) in [(20_002, 8), (20_000, 7), (20_004, 8)] {
            holders.connect(&at(1, pid, port));
        }
        holders.ended(&event(at(1, 8, 20_004), Fate::ClosedHere, Some(2)));
        holders.ended(&event(at(1, 9, 20_006), Fate::Reset, Some(2)));
        let told = holders.known(true);
        assert!(told.complete && !holders.known(false).complete);
        assert_eq!(told.routes.len(), 1);
        let told = &told.routes[0];
        let of = |port| {
            let (_, holder) = *told.ports.iter().find(|(told, _)| *told == port).unwrap();
            told.holder(holder).unwrap().pid
        };
        assert_eq!((told.ports.len(), told.holders.len()), (3, 2));
        assert_eq!([20_000, 20_002, 20_004].map(of), [7, 8, 8].map(Some));
    }

    /// A connection that was made: its port, its process, and how it ended, if it has.
    #[derive(Clone, Copy, Debug)]
    struct Made {
        connect: Connect,
        end: Option<(u64, Fate)>,
    }

    /// Generates connections as a kernel makes them: a port is taken again only when it is free or in TIME_WAIT.
    fn made() -> impl Strategy<Value = Vec<Made>> {
        let one = (0..12_u16, 1..4_u32, 0..40_u64, 0..30_u64, 0..4_u8);
        proptest::collection::vec(one, 0..60).prop_map(|all| {
            let mut next: BTreeMap<u16, u64> = (0..12).map(|port| (port, 0)).collect();
            let of = |(port, pid, gap, length, fate): (u16, u32, u64, u64, u8)| {
                let start = next.get(&port)? + gap + 1;
                let fate = match fate {
                    0 => None,
                    1 => Some(Fate::Reset),
                    _ => Some(Fate::ClosedHere),
                };
                match fate {
                    None => next.remove(&port),
                    Some(_) => next.insert(port, start + length),
                };
                Some(Made {
                    connect: at(start, pid, 20_000 + port),
                    end: fate.map(|fate| (start + length, fate)),
                })
            };
            all.into_iter().filter_map(of).collect()
        })
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_model_says(made in made(), late in proptest::collection::vec(0..2_u64, 120)) {
            // Events in the order of their times, each read up to a second late, an end never before another end of the port.
            let mut events: Vec<(u64, bool, Made)> = Vec::new();
            let mut late = late.into_iter();
            for one in &made {
                events.push((one.connect.start_ns / S + late.next().unwrap(), false, *one));
                if let Some((end, _)) = one.end {
                    events.push((end + late.next().unwrap(), true, *one));
                }
            }
            events.sort_by_key(|(read, is_end, _)| (*read, !is_end));
            let mut holders = Holders::default();
            let last = events.last().map_or(0, |(read, ..)| *read);
            let mut events = events.into_iter().peekable();
            for now in 0..=last + 70 {
                while let Some((_, is_end, one)) = events.next_if(|(read, ..)| *read <= now) {
                    match (is_end, one.end) {
                        (true, Some((end, fate))) => holders.ended(&event(one.connect, fate, Some(end))),
                        _ => holders.connect(&one.connect),
                    }
                }
                if now % 3 == 0 {
                    holders.expire(now * S);
                }
                if events.peek().is_some_and(|(read, ..)| *read <= now + 1) {
                    // Something of this second may be read in the next one.
                    continue;
                }
                let mut model = BTreeMap::new();
                for one in &made {
                    let port = one.connect.port.number().unwrap();
                    let made = match one.end {
                        _ if one.connect.start_ns > now * S => continue,
                        None => Some(PortUse::Open),
                        Some((end, _)) if now < end => Some(PortUse::Open),
                        Some((end, Fate::ClosedHere)) if now < end + 60 => Some(PortUse::TimeWait),
                        Some(_) => None,
                    };
                    match made {
                        Some(made) => model.insert(port, (port, made, Some(one.connect.pid))),
                        None => model.remove(&port),
                    };
                }
                let model: Vec<_> = model.into_values().collect();
                prop_assert_eq!(uses(&holders, now), model, "at {}", now);
            }
            let open = made.iter().filter(|one| one.end.is_none()).count();
            prop_assert_eq!(holders.ports, open);
            let held: u32 = holders.interned.holders.iter().map(|(_, ports)| ports).sum();
            prop_assert_eq!(held as usize, open);
        }
    }
}
