//! The facts that decide a search: the settings of this network namespace, the kernel's order, the sockets.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};

use super::{
    args::ExplainArgs,
    search::{Search, State},
};
use crate::{
    connect::{
        PortRange, SearchRange,
        settings::{
            TimeWaitSettings, has_socket_range, is_absent, number, parsed, reserved_ranges,
            setting, the_range,
        },
    },
    kernel::{btf::Btf, layout::Layout},
    sockets::{PortUse, Query, Socket},
};

const STEP_WIDTH: &str = "ip_local_port_step_width";

/// `TCP_TIMEWAIT_LEN` of net/tcp.h.
const TIME_WAIT_LENGTH: Duration = Duration::from_secs(60);

/// The connect() calls that are explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) source: IpAddr,
    pub(super) destination: SocketAddr,
}

/// A search on this host.
pub(super) struct Explained {
    pub(super) route: Route,
    pub(super) search: Search,
    /// net.ipv4.ip_local_port_step_width, if it makes the steps of a search random.
    pub(super) random_step: Option<u32>,
    pub(super) time_wait: TimeWaitSettings,
}

impl Explained {
    /// Reads the facts of this host.
    ///
    /// # Errors
    /// Names a fact that cannot be read, or an option that contradicts the facts.
    pub(super) fn on_this_host(args: &ExplainArgs) -> Result<Self> {
        let route = route(args)?;
        let range = range(args.local_range)?;
        let reserved = read("ip_local_reserved_ports", reserved_ranges)?;
        let random_step = match setting(STEP_WIDTH) {
            width if is_absent(&width) => None,
            _ => Some(read(STEP_WIDTH, number)?).filter(|&width| width > 0),
        };
        let time_wait = TimeWaitSettings::of_this_namespace().map_err(Error::msg)?;
        let sockets = Query::between(route.source, route.destination).collect(Vec::push);
        let sockets: Vec<Socket> = sockets.context(
            "the sockets of this network namespace cannot be read (sock_diag): run it where sockets of netlink are \
             allowed, on a kernel with CONFIG_INET_DIAG",
        )?;
        let search = search(range, &reserved, &sockets, route, time_wait);
        Ok(Self {
            route,
            search: search.context("the range has no ports")?,
            random_step,
            time_wait,
        })
    }
}

/// Reads and parses a setting.
fn read<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
    parsed(name, &setting(name), parse).map_err(Error::msg)
}

/// Creates the search through a range with these ports in use.
fn search(
    range: SearchRange,
    reserved: &[PortRange],
    sockets: &[Socket],
    route: Route,
    time_wait: TimeWaitSettings,
) -> Option<Search> {
    let mut used: HashMap<u16, State> = HashMap::new();
    for socket in sockets {
        let source = SocketAddr::new(route.source, socket.local.port());
        let is_same = (socket.local, socket.remote) == (source, route.destination);
        let state = match PortUse::of(socket.state) {
            PortUse::Listener => State::Bound,
            _ if !is_same => continue,
            PortUse::TimeWait if reuses(time_wait, route, age(socket)) => State::TimeWaitReused,
            PortUse::TimeWait => State::TimeWait,
            _ => State::Taken,
        };
        let known = used.entry(socket.local.port()).or_insert(state);
        *known = state.max(*known);
    }
    Search::new(range, |port| {
        if reserved.iter().any(|range| range.contains(port)) {
            return State::Reserved;
        }
        used.get(&port).copied().unwrap_or(State::Free)
    })
}

/// Returns how long a connection has been in TIME_WAIT.
fn age(socket: &Socket) -> Duration {
    TIME_WAIT_LENGTH.saturating_sub(socket.expires.unwrap_or_default())
}

/// Returns whether the kernel reuses a port that has been in TIME_WAIT for this long, by the rules of
/// `tcp_twsk_unique`, for a connection that had timestamps.
fn reuses(settings: TimeWaitSettings, route: Route, age: Duration) -> bool {
    let is_loopback = route.source.is_loopback() || route.destination.ip().is_loopback();
    settings.reuses(is_loopback) && age > Duration::from_millis(settings.reuse_delay_ms.into())
}

/// Returns the addresses of the connect() calls.
fn route(args: &ExplainArgs) -> Result<Route> {
    let destination = args.destination.address().map_err(Error::msg)?;
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let source = match args.source {
        Some(source) => source.to_canonical(),
        None => source_of_route(destination).with_context(|| {
            format!("there is no route to {destination}, so that connect() fails before the search")
        })?,
    };
    if source.is_ipv4() != destination.is_ipv4() {
        bail!("--source {source}: is not an address of the family of {destination}");
    }
    Ok(Route {
        source,
        destination,
    })
}

/// Returns the source address that the kernel would choose: connect() of a UDP socket sends nothing.
fn source_of_route(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

/// Returns the range of a search, and whether it goes by parity.
fn range(own: Option<PortRange>) -> Result<SearchRange> {
    let namespace = read("ip_local_port_range", the_range)?;
    let Some(own) = own else {
        return Ok(SearchRange {
            ports: namespace,
            by_parity: true,
        });
    };
    let option = || format!("--local-range {own}");
    if !has_socket_range().with_context(option)? {
        bail!(
            "{}: this kernel's sockets have no IP_LOCAL_PORT_RANGE (Linux 6.3 and later have it)",
            option()
        );
    }
    let layout = Btf::of_running_kernel().and_then(|btf| Layout::of(&btf));
    let layout =
        layout.with_context(|| format!("{}: the order of its search is not known", option()))?;
    Ok(SearchRange {
        ports: namespace.narrowed(own),
        by_parity: !layout.socket_range_has_no_parity,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets;

    const RANGE: PortRange = PortRange {
        low: 20_000,
        high: 20_009,
    };

    fn settings(reuse: u32, timestamps: u32) -> TimeWaitSettings {
        TimeWaitSettings {
            reuse,
            timestamps,
            reuse_delay_ms: 1_000,
        }
    }

    fn socket(local: &str, remote: &str, state: sockets::State, left_ms: u64) -> Socket {
        Socket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            state,
            uid: 0,
            inode: 0,
            cgroup_id: None,
            expires: Some(Duration::from_millis(left_ms)),
        }
    }

    fn route_to(destination: &str) -> Route {
        Route {
            source: [10, 0, 0, 1].into(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn only_the_same_four_addresses_take_a_port_and_a_bound_one_is_skipped_by_all() {
        let to = "10.0.0.2:80";
        let connection = |local, remote| socket(local, remote, sockets::State::Established, 0);
        let ended = |local, left_ms| socket(local, to, sockets::State::TimeWait, left_ms);
        let listener = |local, remote| socket(local, remote, sockets::State::Listen, 0);
        let sockets = [
            connection("10.0.0.1:20000", to),
            connection("10.0.0.1:20001", "10.0.0.2:81"),
            connection("10.0.0.1:20002", "10.0.0.3:80"),
            connection("10.0.0.9:20003", to),
            listener("[::]:20004", "[::]:0"),
            connection("10.0.0.1:20004", to),
            ended("10.0.0.1:20005", 58_000),
            ended("10.0.0.1:20006", 59_500),
            connection("10.0.0.1:20008", to),
        ];
        let reserved = [PortRange {
            low: 20_008,
            high: 30_000,
        }];
        let range = SearchRange {
            ports: RANGE,
            by_parity: true,
        };
        let states = |settings| {
            let search = search(range, &reserved, &sockets, route_to(to), settings).unwrap();
            (20_000..20_010)
                .map(|port| search.state(port))
                .collect::<Vec<_>>()
        };
        use State::{Bound, Free, Reserved, Taken, TimeWait, TimeWaitReused};
        let mut expected = vec![
            Taken,
            Free,
            Free,
            Free,
            Bound,
            TimeWaitReused,
            TimeWait,
            Free,
            Reserved,
            Reserved,
        ];
        assert_eq!(states(settings(1, 1)), expected);
        expected[5] = TimeWait;
        for refusing in [settings(0, 1), settings(1, 0), settings(2, 1)] {
            assert_eq!(states(refusing), expected, "{refusing:?}");
        }
    }

    #[test]
    fn an_end_out_of_the_range_of_the_namespace_is_ignored() {
        let range = |low, high| RANGE.narrowed(PortRange { low, high });
        assert_eq!(
            range(20_002, 20_004),
            PortRange {
                low: 20_002,
                high: 20_004
            }
        );
        assert_eq!(
            range(1, 20_004),
            PortRange {
                low: 20_000,
                high: 20_004
            }
        );
        assert_eq!(
            range(20_002, 30_000),
            PortRange {
                low: 20_002,
                high: 20_009
            }
        );
        assert_eq!(range(1, 2), RANGE);
    }

    #[test]
    fn the_source_is_that_of_the_route() {
        let source = source_of_route("127.0.0.1:9".parse().unwrap());
        assert_eq!(source.unwrap(), IpAddr::from([127, 0, 0, 1]));
    }
}
