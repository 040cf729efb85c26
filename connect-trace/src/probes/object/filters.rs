//! The filters in the form of the programs: bits, and maps of values.

use std::hash::Hash;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{
        Array, HashMap, Map, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use connect_trace_common::FilterBits;

use crate::filter::{Filters, IpVersion};

/// Number of entries in the map `PIDS` for the children of traced processes.
pub(crate) const FOLLOWED: usize = 32_768;

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

/// Returns the sizes of the maps, by name.
pub(crate) fn sizes(filters: &Filters) -> [(&'static str, usize); 5] {
    let followed = if filters.follow { FOLLOWED } else { 0 };
    [
        ("PIDS", filters.pids.len() + followed),
        ("UIDS", filters.uids.len()),
        ("COMMS", filters.comms.len()),
        ("NETNS", filters.netns.len()),
        ("DADDRS", filters.daddrs.len()),
    ]
}

/// Fills the maps. They stay in the object: programs that are loaded later refer to them.
pub(crate) fn fill(ebpf: &mut Ebpf, filters: &Filters) -> Result<()> {
    fill_set(ebpf, "PIDS", &filters.pids)?;
    fill_set(ebpf, "UIDS", &filters.uids)?;
    fill_set(ebpf, "NETNS", &filters.netns)?;
    let comms: Vec<[u8; 16]> = filters.comms.iter().map(|comm| comm.0).collect();
    fill_set(ebpf, "COMMS", &comms)?;

    let mut daddrs: LpmTrie<_, [u8; 16], u8> = map(ebpf, "DADDRS")?.try_into()?;
    for network in &filters.daddrs {
        let (address, length) = network.prefix();
        daddrs
            .insert(&Key::new(length.into(), address), 1, 0)
            .with_context(|| format!("add {network} to map DADDRS"))?;
    }

    let mut words = [0_u64; 1024];
    let ports = filters.dports.iter().flat_map(|span| span.low..=span.high);
    for port in ports {
        words[usize::from(port / 64)] |= 1 << (port % 64);
    }
    let mut dports: Array<_, u64> = map(ebpf, "DPORTS")?.try_into()?;
    for (index, word) in (0..).zip(words).filter(|&(_, word)| word != 0) {
        dports.set(index, word, 0).context("write map DPORTS")?;
    }
    Ok(())
}

fn fill_set<K: aya::Pod + Hash>(ebpf: &mut Ebpf, name: &str, keys: &[K]) -> Result<()> {
    let mut set: HashMap<&mut MapData, K, u8> = map(ebpf, name)?.try_into()?;
    for key in keys {
        set.insert(key, 1, 0)
            .with_context(|| format!("add to map {name}"))?;
    }
    Ok(())
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name)
        .with_context(|| format!("the eBPF object has no map {name}"))
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
}
