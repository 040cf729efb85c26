//! The filters in the form of the programs: bits, and maps of values. A service changes them while it runs.

use std::{
    hash::Hash,
    io,
    sync::atomic::{Ordering, fence},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, ensure};
use aya::{
    Ebpf,
    maps::{
        Array, HashMap, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use connect_trace_common::{FilterBits, Params};

use super::take;
use crate::filter::{Cidr, Filters, IpVersion};

/// Number of entries in the map `PIDS` for the children of traced processes.
pub(crate) const FOLLOWED: usize = 32_768;

/// Number of values of each filter for which the maps of a service have room, unless it starts with more.
const ROOM: usize = 512;

/// Returns the filter bits with which the programs are loaded.
pub(crate) fn bits(filters: &Filters) -> FilterBits {
    let mut bits = FilterBits::default();
    for (wanted, bit) in [
        (!filters.pids.is_empty(), FilterBits::PIDS),
        (filters.follow, FilterBits::FOLLOW),
        (!filters.uids.is_empty(), FilterBits::UIDS),
        (!filters.comms.is_empty(), FilterBits::COMMS),
        (!filters.netns.is_empty(), FilterBits::NETNS),
        (!filters.dports.is_empty(), FilterBits::DPORTS),
        (!filters.daddrs.is_empty(), FilterBits::DADDRS),
        (!filters.cgroups.is_empty(), FilterBits::CGROUPS),
        (filters.version == Some(IpVersion::V4), FilterBits::V4),
        (filters.version == Some(IpVersion::V6), FilterBits::V6),
        (filters.failed, FilterBits::FAILED),
    ] {
        bits.set_if(wanted, bit);
    }
    bits
}

/// Returns the single process that is traced, if no other can join it.
pub(crate) fn only_process(filters: &Filters) -> Option<u32> {
    match filters.pids[..] {
        [pid] if !filters.follow => Some(pid),
        _ => None,
    }
}

/// The filters that are words: constants of the programs, or in a service words that they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterWords {
    /// [`Params::filters`]
    pub(crate) bits: u64,
    /// [`Params::cgroup_count`]
    pub(crate) cgroup_count: u64,
    /// [`Params::min_latency_ns`]
    pub(crate) min_latency_ns: u64,
}

impl FilterWords {
    /// The constants of a service.
    pub(crate) const IN_CONTROL: Self = Self {
        bits: Params::IN_CONTROL,
        cgroup_count: Params::IN_CONTROL,
        min_latency_ns: Params::IN_CONTROL,
    };

    /// Returns the words of filters whose cgroups are in so many places.
    pub(crate) fn of(filters: &Filters, cgroup_count: usize) -> Result<Self> {
        let min_latency = filters.min_latency.unwrap_or_default();
        Ok(Self {
            bits: bits(filters).0.into(),
            cgroup_count: cgroup_count as u64,
            min_latency_ns: u64::try_from(min_latency.as_nanos())?,
        })
    }
}

/// The number of values of a filter, by the name of its map.
pub(crate) type Sizes = [(&'static str, usize); 5];

/// Returns the sizes of the maps. In a service there is room for the values of two filters, because one replaces the other
/// while the programs run.
pub(crate) fn sizes(filters: &Filters, is_service: bool) -> Sizes {
    let followed = if filters.follow { FOLLOWED } else { 0 };
    values(filters).map(|(name, values)| {
        let size = match (is_service, name) {
            (true, _) => 2 * values.max(ROOM),
            (false, PIDS) => values + followed,
            (false, _) => values,
        };
        (name, size)
    })
}

const PIDS: &str = "PIDS";

fn values(filters: &Filters) -> Sizes {
    [
        (PIDS, filters.pids.len()),
        ("UIDS", filters.uids.len()),
        ("COMMS", filters.comms.len()),
        ("NETNS", filters.netns.len()),
        ("DADDRS", filters.daddrs.len()),
    ]
}

/// The maps of values, except those of processes and of cgroups.
pub(crate) struct FilterMaps {
    uids: HashMap<MapData, u32, u8>,
    netns: HashMap<MapData, u32, u8>,
    comms: HashMap<MapData, [u8; 16], u8>,
    daddrs: LpmTrie<MapData, [u8; 16], u8>,
    dports: Array<MapData, u64>,
    /// The filters whose values are in the maps.
    present: Filters,
    sizes: Sizes,
}

impl FilterMaps {
    /// Takes the maps from an object that was loaded with these filters, and fills them.
    pub(crate) fn fill(ebpf: &mut Ebpf, filters: &Filters, is_service: bool) -> Result<Self> {
        let mut maps = Self {
            uids: take(ebpf, "UIDS")?,
            netns: take(ebpf, "NETNS")?,
            comms: take(ebpf, "COMMS")?,
            daddrs: take(ebpf, "DADDRS")?,
            dports: take(ebpf, "DPORTS")?,
            present: Filters::default(),
            sizes: sizes(filters, is_service),
        };
        maps.add(filters)?;
        maps.present = filters.clone();
        Ok(maps)
    }

    /// Returns the filters whose values are in the maps.
    pub(crate) fn present(&self) -> &Filters {
        &self.present
    }

    /// Checks that the values of other filters fit into the maps of a service.
    ///
    /// # Errors
    /// Names the map that is too small.
    pub(crate) fn check_room(&self, filters: &Filters) -> Result<()> {
        for ((name, values), (_, size)) in values(filters).into_iter().zip(self.sizes) {
            let room = size / 2;
            ensure!(
                values <= room,
                "{values} values do not fit into the map {name}, which has room for {room} until the service starts again"
            );
        }
        Ok(())
    }

    /// Adds the values of these filters to the present ones.
    pub(crate) fn add(&mut self, filters: &Filters) -> Result<()> {
        let both = union(ports(&self.present), &ports(filters));
        self.set_ports(&ports(&self.present), &both)?;
        insert(&mut self.uids, "UIDS", &filters.uids)?;
        insert(&mut self.netns, "NETNS", &filters.netns)?;
        insert(&mut self.comms, "COMMS", &names(filters))?;
        for &network in &filters.daddrs {
            self.daddrs
                .insert(&key(network), 1, 0)
                .with_context(|| format!("add {network} to map DADDRS"))?;
        }
        Ok(())
    }

    /// Removes the values that `added` has and `kept` lacks, and keeps the others of both.
    pub(crate) fn keep_only(&mut self, kept: &Filters, added: &Filters) -> Result<()> {
        let both = union(ports(kept), &ports(added));
        self.set_ports(&both, &ports(kept))?;
        remove(&mut self.uids, "UIDS", &added.uids, &kept.uids)?;
        remove(&mut self.netns, "NETNS", &added.netns, &kept.netns)?;
        remove(&mut self.comms, "COMMS", &names(added), &names(kept))?;
        for &network in added.daddrs.iter().filter(|it| !kept.daddrs.contains(it)) {
            absent_or(self.daddrs.remove(&key(network)))
                .with_context(|| format!("remove {network} from map DADDRS"))?;
        }
        self.present = kept.clone();
        Ok(())
    }

    /// Writes the words of the map of ports that change.
    fn set_ports(&mut self, before: &Ports, after: &Ports) -> Result<()> {
        let words = before.iter().zip(after);
        let changed = (0..)
            .zip(words)
            .filter(|(_, (before, after))| before != after);
        for (index, (_, &word)) in changed {
            self.dports
                .set(index, word, 0)
                .context("write map DPORTS")?;
        }
        Ok(())
    }
}

/// The bits of ports.
type Ports = [u64; 1024];

fn ports(filters: &Filters) -> Ports {
    let mut words = [0; 1024];
    let ports = filters.dports.iter().flat_map(|span| span.low..=span.high);
    for port in ports {
        words[usize::from(port / 64)] |= 1 << (port % 64);
    }
    words
}

fn union(mut ports: Ports, more: &Ports) -> Ports {
    for (word, more) in ports.iter_mut().zip(more) {
        *word |= more;
    }
    ports
}

fn names(filters: &Filters) -> Vec<[u8; 16]> {
    filters.comms.iter().map(|comm| comm.0).collect()
}

fn key(network: Cidr) -> Key<[u8; 16]> {
    let (address, length) = network.prefix();
    Key::new(length.into(), address)
}

/// A set of values that a program looks up.
type Set<K> = HashMap<MapData, K, u8>;

/// Adds keys to the map of this name.
pub(crate) fn insert<K: aya::Pod + Hash>(set: &mut Set<K>, name: &str, keys: &[K]) -> Result<()> {
    for key in keys {
        set.insert(key, 1, 0)
            .with_context(|| format!("add to map {name}"))?;
    }
    Ok(())
}

/// Removes the keys of `added` that `kept` lacks from the map of this name.
pub(crate) fn remove<K: aya::Pod + Hash + PartialEq>(
    set: &mut Set<K>,
    name: &str,
    added: &[K],
    kept: &[K],
) -> Result<()> {
    for key in added.iter().filter(|key| !kept.contains(key)) {
        absent_or(set.remove(key)).with_context(|| format!("remove from map {name}"))?;
    }
    Ok(())
}

/// Ignores the error of a key that is not there, which is nothing to remove.
fn absent_or(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

/// Waits until no program runs that began before, and may have read words or maps as they were then.
pub(crate) fn wait_for_running_programs() {
    /// `MEMBARRIER_CMD_GLOBAL`: waits for a grace period of RCU, within which every program runs.
    const GLOBAL: libc::c_long = 1;
    /// Longer than any program runs, if its thread keeps the CPU.
    const PAUSE: Duration = Duration::from_millis(100);
    fence(Ordering::SeqCst);
    // SAFETY: the system call takes two numbers.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0) };
    if waited != 0 {
        log::debug!("membarrier: {}", io::Error::last_os_error());
        thread::sleep(PAUSE);
    }
}

/// Returns an error that says what to do, if the kernel has refused to change a map for lack of a privilege.
pub(crate) fn refusal(error: Error) -> Error {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let is_forbidden =
        causes.any(|error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied);
    if !is_forbidden {
        return error;
    }
    error.context(
        "the kernel lets nobody change the maps of filters without CAP_BPF, as all kernels before 5.19 do; restart the \
         service instead",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_there_has_no_bit() {
        assert_eq!(bits(&Filters::default()), FilterBits(0));
        let filters = Filters {
            pids: vec![1],
            failed: true,
            version: Some(IpVersion::V6),
            ..Filters::default()
        };
        let bits = bits(&filters);
        assert!(bits.any(FilterBits::PIDS) && bits.any(FilterBits::FAILED));
        assert!(bits.any(FilterBits::V6) && !bits.any(FilterBits::V4));
        assert!(!bits.any(FilterBits::UIDS));
    }

    #[test]
    fn a_service_has_room_for_the_values_of_two_filters() {
        let few = Filters {
            uids: vec![1, 2],
            ..Filters::default()
        };
        assert!(sizes(&few, true).iter().all(|&(_, size)| size == 2 * ROOM));
        assert!(sizes(&few, false).contains(&("UIDS", 2)));
        let many = Filters {
            uids: (0..2_000).collect(),
            ..Filters::default()
        };
        assert!(sizes(&many, true).contains(&("UIDS", 4_000)));
    }

    #[test]
    fn ports_of_two_filters_are_those_of_both() {
        let of = |low, high| {
            ports(&Filters {
                dports: vec![crate::connect::PortRange { low, high }],
                ..Filters::default()
            })
        };
        let both = union(of(1, 64), &of(443, 443));
        assert_eq!((both[0], both[1], both[6]), (!1, 1, 1 << 59));
        assert_eq!(union(of(1, 1), &of(1, 1)), of(1, 1));
        assert_eq!(of(65_535, 65_535)[1023], 1 << 63);
    }

    #[test]
    fn what_a_privilege_is_missing_for_is_said() {
        let io =
            |kind: io::ErrorKind| Error::from(io::Error::from(kind)).context("add to map UIDS");
        let forbidden = refusal(io(io::ErrorKind::PermissionDenied));
        assert!(
            format!("{forbidden:#}").contains("CAP_BPF"),
            "{forbidden:#}"
        );
        let full = refusal(io(io::ErrorKind::ArgumentListTooLong));
        assert!(!format!("{full:#}").contains("CAP_BPF"), "{full:#}");
    }
}
