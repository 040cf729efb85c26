//! A mitigation: programs before the connect() calls of cgroups, which choose the source of connections on routes that
//! the daemon names. Loaded and attached only if asked for.

mod trial;

use std::{fs::File, io, net::IpAddr, path::Path, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Error, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError},
    programs::{CgroupAttachMode, CgroupSockAddr},
};
use connect_trace_common::{
    MitigationCounters, Params, RouteCounts, RouteKey, RouteState,
    mitigation::{MOST_CLAIMS, MOST_ROUTES, MOST_SOURCES, Sources, WHOLE, method},
};

use super::{
    ProbeConfig,
    attach::functions::Functions,
    object,
    read::maps::{Maps, Plain},
};
use crate::kernel::{
    layout::Layout, mitigation::MitigationFields, requirement::MissingRequirement,
};

/// The programs, one for each family of sockets: first that of IPv4.
const PROGRAMS: [&str; 2] = ["mitigate_connect4", "mitigate_connect6"];

/// Settings of a mitigation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MitigationConfig {
    /// Folders of the cgroups whose connections it concerns, with all cgroups below them.
    pub cgroups: Vec<PathBuf>,
    /// The method by which it chooses.
    pub method: Method,
    /// Share of the threads or cgroups that it concerns, in parts of [`WHOLE`].
    pub share: u32,
    /// The ids that the share is taken of.
    pub share_by: ShareBy,
}

/// A method to choose the source of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// Tests random ports, and binds the first free one.
    SelectTestRepeat,
    /// Binds these addresses in turn.
    Addresses(Vec<IpAddr>),
    /// Sets `IP_LOCAL_PORT_RANGE` to the whole range of the namespace.
    FullRange,
}

/// The ids that a share is taken of: see [`is_in_share`](connect_trace_common::mitigation::is_in_share).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareBy {
    /// The id of the thread, as the initial PID namespace counts.
    Thread,
    /// The id of the thread's cgroup.
    Cgroup,
}

impl Method {
    /// Returns the addresses of each family as the programs read them, loopback addresses last.
    fn sources(&self) -> Result<Addresses> {
        let mut addresses = Addresses::default();
        let Self::Addresses(given) = self else {
            return Ok(addresses);
        };
        ensure!(!given.is_empty(), "no source address is given");
        let mut canonical: Vec<IpAddr> = given.iter().map(IpAddr::to_canonical).collect();
        canonical.sort_by_key(IpAddr::is_loopback);
        for address in canonical {
            let numbers = &mut addresses.numbers;
            let number = match address {
                IpAddr::V4(v4) => {
                    addresses.v4.push(u32::from_ne_bytes(v4.octets()));
                    [&mut numbers.v4, &mut numbers.v4_loopback]
                }
                IpAddr::V6(v6) => {
                    addresses.v6.push(words(v6.octets()));
                    [&mut numbers.v6, &mut numbers.v6_loopback]
                }
            };
            *number[usize::from(address.is_loopback())] += 1;
            ensure!(
                addresses.v4.len().max(addresses.v6.len()) <= MOST_SOURCES,
                "a mitigation takes up to {MOST_SOURCES} source addresses of a family"
            );
        }
        Ok(addresses)
    }

    fn number(&self) -> u64 {
        match self {
            Self::SelectTestRepeat => method::SELECT_TEST_REPEAT,
            Self::Addresses(_) => method::ADDRESSES,
            Self::FullRange => method::FULL_RANGE,
        }
    }
}

/// Source addresses in network order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Addresses {
    numbers: Sources,
    v4: Vec<u32>,
    v6: Vec<[u32; 4]>,
}

/// Returns the words of an address in network order.
fn words(octets: [u8; 16]) -> [u32; 4] {
    bytemuck::cast(octets)
}

/// Returns an address as routes have it: family, and words in network order. A v4-mapped address is one of IPv4.
#[must_use]
pub fn address_words(address: IpAddr) -> (u16, [u32; 4]) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (
            libc::AF_INET as u16,
            [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        ),
        IpAddr::V6(v6) => (libc::AF_INET6 as u16, words(v6.octets())),
    }
}

impl MitigationConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the setting that is impossible.
    pub(super) fn check(&self, layout: &Layout) -> Result<()> {
        ensure!(!self.cgroups.is_empty(), "no cgroup is given to mitigate");
        ensure!(
            self.share <= WHOLE,
            "a share has up to {WHOLE} parts, not {}",
            self.share
        );
        ensure!(
            layout.shows_port_range || self.method != Method::SelectTestRepeat,
            "this kernel's types do not show the port range of a network namespace, from which select-test-repeat \
             chooses; please report it with the kernel's release"
        );
        self.method.sources().map(drop)
    }

    /// Tries if the kernel lets the programs do what they do. Returns a note if that could not be tried.
    ///
    /// # Errors
    /// Names what the kernel refused, and what to do.
    pub(super) fn try_out(
        &self,
        config: &ProbeConfig,
        layout: &Layout,
        functions: &Functions,
        fields: MitigationFields,
    ) -> Result<Option<String>> {
        trial::try_method(config, &self.method, layout, functions, fields)
    }

    /// Sets the constants of the programs.
    pub(super) fn link(&self, fields: MitigationFields, params: &mut Params) -> Result<()> {
        params.mitigation = self.method.number();
        params.mitigation_share = self.share.into();
        params.mitigation_by_cgroup = (self.share_by == ShareBy::Cgroup).into();
        params.mitigation_sources = self.method.sources()?.numbers.to_word();
        params.reserved_ports = fields.reserved_ports.into();
        params.time_wait_stamp = fields.time_wait_stamp.into();
        params.task_pid = fields.task_pid.into();
        Ok(())
    }

    /// Sets the sizes of the maps.
    pub(super) fn size(&self, loader: &mut EbpfLoader<'_>) {
        loader
            .map_max_entries("ROUTES", MOST_ROUTES)
            .map_max_entries("ROUTE_COUNTS", MOST_ROUTES);
        match self.method {
            Method::SelectTestRepeat => {
                loader.map_max_entries("CLAIMS", MOST_CLAIMS);
            }
            Method::Addresses(_) => {
                let most = MOST_SOURCES as u32;
                loader
                    .map_max_entries("SOURCES4", most)
                    .map_max_entries("SOURCES6", most);
            }
            Method::FullRange => {}
        }
    }
}

/// A mitigation whose programs are attached.
///
/// Its maps are changed by system calls, for which kernels before 5.19 demand `CAP_BPF` unless
/// `kernel.unprivileged_bpf_disabled` is 0; the counters are in shared memory and always readable.
pub struct Mitigation {
    routes: HashMap<MapData, Plain<RouteKey>, Plain<RouteState>>,
    counts: HashMap<MapData, Plain<RouteKey>, Plain<RouteCounts>>,
    maps: Arc<Maps>,
}

impl Mitigation {
    /// Loads the programs and attaches them to the cgroups. They act on no route yet.
    pub(super) fn attach(
        ebpf: &mut Ebpf,
        config: &MitigationConfig,
        maps: &Arc<Maps>,
    ) -> Result<Self> {
        let mitigation = Self::load(ebpf, &PROGRAMS, &config.method, maps)?;
        for cgroup in &config.cgroups {
            attach_to(ebpf, &PROGRAMS, cgroup)?;
        }
        Ok(mitigation)
    }

    /// Loads programs and fills their maps.
    fn load(ebpf: &mut Ebpf, programs: &[&str], method: &Method, maps: &Arc<Maps>) -> Result<Self> {
        let addresses = method.sources()?;
        let mut sources: Array<_, u32> = object::take(ebpf, "SOURCES4")?;
        for (place, address) in (0..).zip(&addresses.v4) {
            sources
                .set(place, address, 0)
                .context("fill map SOURCES4")?;
        }
        let mut sources: Array<_, [u32; 4]> = object::take(ebpf, "SOURCES6")?;
        for (place, address) in (0..).zip(&addresses.v6) {
            sources
                .set(place, address, 0)
                .context("fill map SOURCES6")?;
        }
        for &name in programs {
            object::program::<CgroupSockAddr>(ebpf, name)?
                .load()
                .map_err(object::refusal)
                .with_context(|| format!("load program {name}"))?;
        }
        Ok(Self {
            routes: object::take(ebpf, "ROUTES")?,
            counts: object::take(ebpf, "ROUTE_COUNTS")?,
            maps: Arc::clone(maps),
        })
    }

    /// Returns the decisions since the programs were attached, summed over all CPUs.
    #[must_use]
    pub fn counters(&self) -> MitigationCounters {
        self.maps.mitigation()
    }

    /// Returns the routes with their counts.
    ///
    /// # Errors
    /// If the kernel refuses to read the maps.
    pub fn routes(&self) -> Result<Vec<(RouteKey, RouteState, RouteCounts)>> {
        let mut routes = Vec::new();
        for route in self.routes.iter() {
            let (key, Plain(state)) = route.map_err(refused).context("read map ROUTES")?;
            let counts = match self.counts.get(&key, 0) {
                Ok(Plain(counts)) => counts,
                Err(MapError::KeyNotFound) => RouteCounts::default(),
                Err(error) => return Err(refused(error)).context("read map ROUTE_COUNTS"),
            };
            routes.push((key.0, state, counts));
        }
        Ok(routes)
    }

    /// Adds a route, or changes it and keeps its counts.
    ///
    /// # Errors
    /// If there are [`MOST_ROUTES`] others, or the kernel refuses to change the maps.
    pub fn set_route(&mut self, key: RouteKey, state: RouteState) -> Result<()> {
        let key = Plain(key);
        if let Err(MapError::KeyNotFound) = self.counts.get(&key, 0) {
            self.counts
                .insert(key, Plain(RouteCounts::default()), 0)
                .map_err(refused)
                .context("change map ROUTE_COUNTS")?;
        }
        self.routes
            .insert(key, Plain(state), 0)
            .map_err(refused)
            .context("change map ROUTES")
    }

    /// Removes a route, if it is there, with its counts.
    ///
    /// # Errors
    /// If the kernel refuses to change the maps.
    pub fn remove_route(&mut self, key: &RouteKey) -> Result<()> {
        let key = &Plain(*key);
        for removed in [self.routes.remove(key), self.counts.remove(key)] {
            if let Err(error) = removed
                && errno(&error) != Some(libc::ENOENT)
            {
                return Err(refused(error)).context("remove a route");
            }
        }
        Ok(())
    }
}

/// Returns the error of a map, with the remedy if the kernel demands a privilege.
fn refused(error: MapError) -> Error {
    let is_forbidden = errno(&error) == Some(libc::EPERM);
    let error = Error::from(error);
    if !is_forbidden {
        return error;
    }
    error.context(
        "the kernel lets nobody change the routes of a mitigation without CAP_BPF, as all kernels before 5.19 do; keep \
         CAP_BPF, or use a newer kernel",
    )
}

/// Returns the error number of the system call that failed.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// Attaches programs to a cgroup. Without flags, the links of later kernels let other programs be attached too
/// (`cgroup_bpf_link_attach`), and end with the process.
fn attach_to(ebpf: &mut Ebpf, programs: &[&str], cgroup: &Path) -> Result<()> {
    let shown = cgroup.display();
    let folder = File::open(cgroup).with_context(|| format!("open cgroup {shown}"))?;
    for &name in programs {
        object::program::<CgroupSockAddr>(ebpf, name)?
            .attach(&folder, CgroupAttachMode::Single)
            .map_err(|error| unattached(error.into(), cgroup))
            .with_context(|| format!("attach program {name}"))?;
    }
    Ok(())
}

/// Names the reason why a program could not be attached to a cgroup, if it is known.
fn unattached(cause: Error, cgroup: &Path) -> Error {
    let (what, remedy) = match errno(cause.as_ref()) {
        Some(libc::EBADF) => (
            "is not a cgroup of version 2",
            "name a folder below a mounted cgroup2 file system",
        ),
        Some(libc::EPERM) => (
            "does not take the program",
            "run as root with all capabilities; another program on it or above it may forbid more (one that was \
             attached without BPF_F_ALLOW_MULTI: see `bpftool cgroup tree`)",
        ),
        _ => return cause.context(format!("attach to cgroup {}", cgroup.display())),
    };
    MissingRequirement::new(format!("{} {what} ({cause:#})", cgroup.display()), remedy).into()
}
