//! The routes of a network namespace, with the ports that their connections hold.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Error, Result, bail};

use super::args::PortsArgs;
use crate::{
    connect::settings::LocalPortSettings,
    options::host,
    sockets::{PortMap, Query, Socket, State, namespace},
    stats::Route,
    term::printable::printable,
};

/// The routes that are shown, without the holders of their ports.
pub(super) struct Host {
    pub(super) netns: u32,
    /// The range with its reserved ports and listeners.
    pub(super) map: PortMap,
    /// The routes with the most ports in use, those first, and their connections.
    pub(super) routes: Vec<(Route, Vec<Socket>)>,
    /// Number of further routes.
    pub(super) more: usize,
}

/// A route in a namespace.
type Ends = (IpAddr, SocketAddr);

impl Host {
    /// Reads the namespace that the options name.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or the kernel does not tell its sockets.
    pub(super) fn read(args: &PortsArgs) -> Result<Self> {
        let query = query(args)?;
        let (path, option) = match &args.netns {
            None => (PathBuf::from("/proc/self/ns/net"), String::new()),
            Some(named) => (file(named)?, format!("--netns {}: ", printable(named))),
        };
        let namespace = File::open(&path)
            .with_context(|| format!("{option}{} cannot be opened", printable(&path)))?;
        let netns = namespace::inode(&namespace)
            .with_context(|| format!("{option}{} cannot be examined", printable(&path)))?;
        let read = || Self::of_this_namespace(netns, query, args.top);
        if args.netns.is_none() {
            return read();
        }
        namespace::within(&namespace, read).with_context(|| {
            format!(
                "{option}the namespace cannot be entered: name the file of a network namespace, as root \
                 (CAP_SYS_ADMIN)"
            )
        })?
    }

    fn of_this_namespace(netns: u32, query: Query, top: usize) -> Result<Self> {
        let settings = LocalPortSettings::of_this_namespace().map_err(Error::msg)?;
        let refused = "the sockets of the network namespace cannot be read (sock_diag): run it where sockets of \
                       netlink are allowed, on a kernel with CONFIG_INET_DIAG";
        let mut map = PortMap::new(settings.range, &settings.reserved);
        let listeners: Vec<Socket> = Query::LISTENERS.collect(Vec::push).context(refused)?;
        for listener in &listeners {
            map.add(listener);
        }
        let accepting = Accepting::of(&listeners);
        let counts = query.collect(|counts: &mut HashMap<Ends, u32>, socket| {
            if settings.range.contains(socket.local.port()) && !accepting.has_made(&socket) {
                *counts.entry(ends(&socket)).or_default() += 1;
            }
        });
        let mut fullest: Vec<(Ends, u32)> = counts.context(refused)?.into_iter().collect();
        fullest.sort_by_key(|&(ends, count)| (Reverse(count), ends));
        let more = fullest.len().saturating_sub(top);
        fullest.truncate(top);
        // Only the routes that are shown are kept as a whole: a host can have very many connections.
        let wanted: HashSet<Ends> = fullest.iter().map(|&(ends, _)| ends).collect();
        let sockets = query.collect(|sockets: &mut HashMap<Ends, Vec<Socket>>, socket| {
            if wanted.contains(&ends(&socket)) && !accepting.has_made(&socket) {
                sockets.entry(ends(&socket)).or_default().push(socket);
            }
        });
        let mut sockets = sockets.context(refused)?;
        let routes = fullest.into_iter().map(|(ends, _)| {
            let (source, destination) = ends;
            let route = Route {
                netns: Some(netns),
                source,
                destination,
            };
            (route, sockets.remove(&ends).unwrap_or_default())
        });
        Ok(Self {
            netns,
            map,
            routes: routes.collect(),
            more,
        })
    }
}

/// Returns the route of a connection in its namespace.
fn ends(socket: &Socket) -> Ends {
    (socket.local.ip(), socket.remote)
}

/// Addresses that sockets listen on.
struct Accepting(HashSet<SocketAddr>);

impl Accepting {
    fn of(sockets: &[Socket]) -> Self {
        let listeners = sockets
            .iter()
            .filter(|socket| socket.state == State::Listen);
        Self(listeners.map(|listener| listener.local).collect())
    }

    /// Returns true for a connection that a listener accepted: it has the port of the listener.
    fn has_made(&self, socket: &Socket) -> bool {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let mut addresses = any.into_iter().chain([socket.local.ip()]);
        addresses.any(|ip| self.0.contains(&SocketAddr::new(ip, socket.local.port())))
    }
}

fn query(args: &PortsArgs) -> Result<Query> {
    let destination = args.destination.as_ref();
    let host = destination.and_then(|destination| destination.host.as_deref());
    let host = host.map(host::address).transpose().map_err(Error::msg)?;
    let destination_ip = host.map(|address| address.to_canonical());
    let source = args.source.map(|source| source.to_canonical());
    if let (Some(source), Some(destination)) = (source, destination_ip)
        && source.is_ipv4() != destination.is_ipv4()
    {
        bail!("--source {source}: is not an address of the family of {destination}");
    }
    Ok(Query {
        source,
        destination: destination_ip,
        destination_port: destination.and_then(|destination| destination.port),
        connections: true,
        listeners: false,
    })
}

/// Returns the file of a namespace.
fn file(named: &Path) -> Result<PathBuf> {
    let pid = named.to_str().and_then(|text| text.parse::<u32>().ok());
    let Some(pid) = pid else {
        return Ok(named.to_owned());
    };
    let process = PathBuf::from(format!("/proc/{pid}"));
    if !process.exists() {
        bail!("--netns {pid}: there is no such process");
    }
    Ok(process.join("ns/net"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connection;

    #[test]
    fn a_connection_with_the_address_of_a_listener_was_accepted() {
        let any: SocketAddr = ([0, 0, 0, 0], 0).into();
        let listener =
            |local: &str| connection(local.parse::<SocketAddr>().unwrap(), any, State::Listen);
        let mut bound = listener("10.0.0.1:84");
        bound.state = State::BoundInactive;
        let accepting = Accepting::of(&[
            listener("10.0.0.1:80"),
            listener("0.0.0.0:81"),
            listener("[::]:82"),
            bound,
        ]);
        let remote: SocketAddr = ([10, 0, 0, 9], 40_000).into();
        for (local, expected) in [
            ("10.0.0.1:80", true),
            ("10.0.0.2:80", false),
            ("10.0.0.2:81", true),
            ("10.0.0.2:82", true),
            ("10.0.0.1:83", false),
            ("10.0.0.1:84", false),
        ] {
            let local: SocketAddr = local.parse().unwrap();
            let socket = connection(local, remote, State::Established);
            assert_eq!(accepting.has_made(&socket), expected, "{local}");
        }
    }

    #[test]
    fn a_namespace_is_that_of_a_process_or_of_a_file() {
        let own = std::process::id().to_string();
        let expected = PathBuf::from(format!("/proc/{own}/ns/net"));
        assert_eq!(file(Path::new(&own)).unwrap(), expected);
        assert_eq!(
            file(Path::new("/run/netns/1")).unwrap(),
            Path::new("/run/netns/1")
        );
        assert!(file(Path::new("4294967295")).is_err());
    }
}
