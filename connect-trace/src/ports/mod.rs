//! `connect-trace ports`: the ports of routes that are in use on this host now, and who holds them.
//!
//! `host` asks the kernel for the connections, `owners` finds the processes of their sockets, and `service` asks a running
//! `connect-trace serve`, which knows the holders of ports in TIME_WAIT: the kernel has forgotten them.

pub(crate) mod args;
mod host;
mod json;
mod owners;
mod service;
mod text;

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
    process::ExitCode,
};

use anyhow::{Result, bail};

use self::{args::PortsArgs, host::Host, owners::Owners, service::Service};
use crate::{
    connect::PortRange,
    figures::charts::{Place, port_map},
    files::{is_standard, whole::WholeFile},
    kernel::cgroups,
    options::Format,
    sockets::Socket,
    stats::{
        Route,
        route_ports::{Holder, RoutePorts},
    },
    term::{message::say, printable::printable, stdout::stdout},
};

/// The ports of the routes that are shown.
struct Shown {
    routes: Vec<RoutePorts>,
    /// True if a destination or a source was named.
    is_selected: bool,
    netns: u32,
    range: PortRange,
    /// Number of further routes.
    more: usize,
    /// Paths of the holders' cgroups, by their ids.
    cgroups: HashMap<u64, String>,
    /// True if a service is followed that knows all holders; false if it may miss some; `None` without a service.
    service_is_complete: Option<bool>,
    /// True if this user may not see the descriptors of all processes.
    processes_refused: bool,
}

/// Shows the ports that the options ask for.
///
/// # Errors
/// If the sockets or a setting cannot be read, a service that is named does not answer, or an output cannot be written.
pub fn run(args: &PortsArgs) -> Result<ExitCode> {
    // Report a file that cannot be written before anything is read.
    let svg = match &args.svg {
        Some(path) => Some((path, WholeFile::replacing("--svg", path)?)),
        None => None,
    };
    let shown = Shown::read(args)?;
    if let Some((path, file)) = svg {
        let Some(fullest) = shown.routes.first() else {
            bail!(
                "--svg {}: no connection holds a port, so there is no map",
                printable(path)
            );
        };
        let drawn = port_map(Place::File, fullest);
        file.write(|mut file| file.write_all(drawn.as_bytes()))?;
        if is_standard(path) {
            return Ok(ExitCode::SUCCESS);
        }
        say!("wrote {}", printable(path));
    }
    let mut out = stdout();
    match args.format {
        Format::Text => out.write_all(text::of(&shown).as_bytes())?,
        Format::Json => json::write(&mut out, &shown)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

impl Shown {
    fn read(args: &PortsArgs) -> Result<Self> {
        let host = Host::read(args)?;
        let service = Service::ask(args.service.as_ref())?;
        let sockets = host.routes.iter().flat_map(|(_, sockets)| sockets);
        let inodes: HashSet<u32> = sockets.map(|socket| socket.inode).collect();
        let owners = Owners::find(&inodes)?;
        let holder = |route: Route, socket: &Socket| {
            let service = service.as_ref();
            let recorded = service.and_then(|known| known.holder(route, socket.local.port()));
            recorded.unwrap_or_else(|| told_by_kernel(socket, &owners))
        };
        let ports = |(route, sockets): (Route, Vec<Socket>)| {
            let held = sockets
                .into_iter()
                .map(|socket| (socket, holder(route, &socket)));
            RoutePorts::of(route, host.map.clone(), held)
        };
        let routes: Vec<RoutePorts> = host.routes.into_iter().map(ports).collect();
        let holders = routes.iter().flat_map(|ports| &ports.holders);
        let ids = holders.filter_map(|held| held.holder.cgroup_id).collect();
        Ok(Self {
            cgroups: cgroups::paths(&ids),
            routes,
            is_selected: args.destination.is_some() || args.source.is_some(),
            netns: host.netns,
            range: host.map.range(),
            more: host.more,
            service_is_complete: service.map(|service| service.is_complete),
            processes_refused: owners.refused,
        })
    }
}

/// Returns the holder of a socket, as far as the kernel tells.
fn told_by_kernel(socket: &Socket, owners: &Owners) -> Holder {
    let owner = owners.of.get(&socket.inode);
    Holder {
        pid: owner.map(|owner| owner.pid),
        comm: owner.and_then(|owner| owner.comm),
        cgroup_id: socket.cgroup_id,
        port_choice: None,
    }
}
