//! The port ranges of other network namespaces of this host: each has its own, and those of containers are often
//! forgotten.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
};

use super::finding::{Finding, Group};
use crate::{
    connect::{
        PortRange,
        settings::{parsed, setting, the_range},
    },
    sockets::namespace::within,
    term::{numbers::counted, printable::printable},
};

/// Largest number of namespaces that are read.
const MOST: usize = 1_024;

/// Number of namespaces that a finding names.
const SHOWN: usize = 3;

/// Another network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    /// A process in it.
    pub(super) pid: u32,
    /// Name of this process.
    pub(super) comm: String,
    pub(super) range: Result<PortRange, String>,
}

/// Returns the other network namespaces that processes of this host are in.
///
/// # Errors
/// If /proc cannot be read.
pub(super) fn others() -> io::Result<Vec<Other>> {
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    // The lowest process id of each: the first process of a container.
    let mut processes: BTreeMap<u64, u32> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end at any time, and one of another user is not shown.
        let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net")) else {
            continue;
        };
        let first = processes.entry(namespace.ino()).or_insert(pid);
        *first = pid.min(*first);
    }
    processes.remove(&own);
    let pids = processes.into_values().take(MOST);
    Ok(pids.filter_map(read).collect())
}

/// Reads the range in the network namespace of a process. Returns `None` if the process has ended.
fn read(pid: u32) -> Option<Other> {
    const NAME: &str = "ip_local_port_range";
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let entered = File::open(format!("/proc/{pid}/ns/net"))
        .and_then(|namespace| within(&namespace, || parsed(NAME, &setting(NAME), the_range)));
    Some(Other {
        pid,
        comm: String::from_utf8_lossy(comm.trim_ascii_end()).into_owned(),
        range: entered.unwrap_or_else(|error| {
            Err(format!("its network namespace cannot be entered: {error}"))
        }),
    })
}

/// Returns the finding about namespaces with other ranges than this one.
pub(super) fn finding(others: &io::Result<Vec<Other>>, span: PortRange) -> Finding {
    const NAME: &str = "other_ranges";
    let unknown = |note: String| {
        Finding::unknown(
            Group::Ports,
            NAME,
            note,
            "run it as root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE",
        )
    };
    let others = match others {
        Ok(others) => others,
        Err(error) => return unknown(format!("/proc cannot be read: {error}")),
    };
    let data: Vec<_> = others
        .iter()
        .filter_map(|other| {
            let range = other.range.as_ref().ok()?;
            let (first, last) = (range.low, range.high);
            (*range != span).then(|| {
                serde_json::json!({
                    "pid": other.pid, "comm": other.comm, "first": first, "last": last,
                })
            })
        })
        .collect();
    let unread = others.iter().find_map(|other| other.range.as_ref().err());
    let namespaces = counted(
        others.len() as u64,
        "other network namespace",
        "other network namespaces",
    );
    if let (Some(error), true) = (unread, data.is_empty()) {
        return unknown(format!("{namespaces}: {error}"));
    }
    let differing = others.iter().filter(|other| {
        let range = other.range.as_ref();
        range.is_ok_and(|range| *range != span)
    });
    let named: Vec<String> = differing
        .filter_map(|other| {
            let range = other.range.as_ref().ok()?;
            Some(format!(
                "{range} of {} (pid {})",
                printable(&other.comm),
                other.pid
            ))
        })
        .collect();
    let value = match named.len() {
        0 if others.is_empty() => "there is no other network namespace".to_owned(),
        0 => format!("{namespaces}, with the same range"),
        all => {
            let shown = named[..all.min(SHOWN)].join(", ");
            let more = match all.saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{namespaces}; ranges that differ: {shown}{more}")
        }
    };
    Finding::ok(Group::Ports, NAME, value).data(data.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    const SPAN: PortRange = PortRange {
        low: 32_768,
        high: 60_999,
    };

    fn other(pid: u32, range: Result<PortRange, String>) -> Other {
        Other {
            pid,
            comm: "nginx\x1b".to_owned(),
            range,
        }
    }

    #[test]
    fn a_range_that_differs_is_named_with_a_process() {
        let narrow = PortRange {
            low: 10_000,
            high: 10_999,
        };
        let found = finding(&Ok(vec![other(7, Ok(SPAN)), other(9, Ok(narrow))]), SPAN);
        assert_eq!(
            found.value,
            "2 other network namespaces; ranges that differ: 10000-10999 of nginx\\x1b (pid 9)"
        );
        assert_eq!(found.data[0]["first"], 10_000);
        let same = finding(&Ok(vec![other(7, Ok(SPAN))]), SPAN);
        assert_eq!(same.value, "1 other network namespace, with the same range");
        let alone = finding(&Ok(Vec::new()), SPAN);
        assert_eq!(
            (alone.state, alone.data),
            (State::Ok, serde_json::json!([]))
        );
        let many: Vec<Other> = (1..9).map(|pid| other(pid, Ok(narrow))).collect();
        let many = finding(&Ok(many), SPAN);
        assert!(many.value.ends_with("(pid 3) and 5 more"), "{many:?}");
    }

    #[test]
    fn a_namespace_that_cannot_be_entered_is_unknown() {
        let refused = other(7, Err("cannot be entered".to_owned()));
        assert_eq!(finding(&Ok(vec![refused]), SPAN).state, State::Unknown);
        let refused = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(finding(&refused, SPAN).state, State::Unknown);
    }

    #[test]
    fn the_namespaces_of_this_host_can_be_listed() {
        for other in others().unwrap() {
            assert!(other.pid > 0 && !other.comm.is_empty(), "{other:?}");
        }
    }
}
