//! Questions to the kernel about a route, in its network namespace.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    time::{Duration, Instant},
};

use super::Settings;
use crate::{
    connect::{SearchRange, TimeWaitSettings, settings::LocalPortSettings},
    sockets::{PortUse, Query, Socket, namespace},
    stats::route::Route,
};

/// The network namespace of this process.
pub(super) struct Namespace {
    /// Inode number; `None` on a kernel without namespaces.
    inode: Option<u32>,
}

/// The sockets and settings that the kernel has for a route.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) connections: Vec<Socket>,
    /// Ports that sockets listen on, or are bound to.
    pub(super) bound: BTreeSet<u16>,
    pub(super) settings: Settings,
    /// Time until the answer was complete.
    pub(super) took: Duration,
}

impl Namespace {
    pub(super) fn of_this_process() -> Self {
        let file = File::open("/proc/self/ns/net");
        Self {
            inode: file.and_then(|file| namespace::inode(&file)).ok(),
        }
    }

    /// Asks for the connections of a route. A route of another namespace is asked for within that of a process that uses it,
    /// if one is given.
    ///
    /// # Errors
    /// With the reason, as words.
    pub(super) fn ask(&self, route: &Route, process: Option<u32>) -> Result<Found, String> {
        if route.netns.is_none() || route.netns == self.inode {
            return found(route).map_err(refused);
        }
        let process = process.ok_or("it is in another network namespace")?;
        let file = File::open(format!("/proc/{process}/ns/net"));
        let file =
            file.map_err(|_| "it is in another network namespace, whose process has ended")?;
        if namespace::inode(&file).ok() != route.netns {
            return Err("it is in another network namespace than its process".to_owned());
        }
        let entered = namespace::within(&file, || found(route));
        let entered = entered.and_then(|found| found);
        entered.map_err(refused)
    }
}

fn refused(error: io::Error) -> String {
    format!("the sockets cannot be read (sock_diag: {error})")
}

/// Asks in the network namespace of this thread.
fn found(route: &Route) -> io::Result<Found> {
    let start = Instant::now();
    let all: Vec<Socket> = Query::between(route.source, route.destination).collect(Vec::push)?;
    let mut found = Found {
        settings: settings(),
        ..Found::default()
    };
    for socket in all {
        match PortUse::of(socket.state) {
            PortUse::Listener => {
                found.bound.insert(socket.local.port());
            }
            _ if socket.local.ip() == route.source && socket.remote == route.destination => {
                found.connections.push(socket);
            }
            _ => {}
        }
    }
    found.took = start.elapsed();
    Ok(found)
}

/// Reads the settings. If they cannot be read, they are as if they were not set.
fn settings() -> Settings {
    let logged = |error: &String| log::debug!("{error}");
    let ports = LocalPortSettings::of_this_namespace()
        .inspect_err(logged)
        .ok();
    let time_wait = TimeWaitSettings::of_this_namespace().inspect_err(logged);
    Settings {
        range: ports.as_ref().map(|ports| SearchRange {
            ports: ports.range,
            by_parity: true,
        }),
        reserved: ports.map(|ports| ports.reserved).unwrap_or_default(),
        time_wait: time_wait.ok(),
    }
}
