//! Connects that never were, and recordings of them.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Result;
use connect_trace::{
    connect::{CheckMode, Comm, Connect, Family, Owner, PortRange, SourcePort, Strategy},
    recording::{End, Start, Writer},
    stats::{
        accounting::Accounting,
        report::{Checks, KernelSide},
    },
};

/// Moment of `CLOCK_MONOTONIC` that every recording begins at.
const BEGAN: u64 = 10_000_000_000;

/// A connect() that began so many nanoseconds after its recording.
pub fn connect(at_ns: u64, connect_ns: u64, port: u16) -> Connect {
    let local = IpAddr::from([127, 0, 0, 1]);
    Connect {
        start_ns: BEGAN + at_ns,
        connect_ns,
        search_ns: Some(connect_ns / 2),
        family: Family::V4,
        source: Some(local),
        port: SourcePort::Searched(port),
        destination: Some(SocketAddr::new(local, 443)),
        errno: 0,
        pid: 1,
        tid: 1,
        comm: Comm::of("test"),
        uid: 0,
        netns: Some(1),
        cgroup_id: 1,
        owner: Some(Owner::Process),
        range: Some(PortRange {
            low: 9_024,
            high: 65_535,
            by_parity: true,
        }),
        strategy: Some(Strategy::Default),
        address_bound: Some(false),
        scanned: None,
        checks: None,
        checks_watched: false,
    }
}

/// Writes a recording of these connects, which lasts so much longer than they do.
pub fn write_recording(
    path: &Path,
    filters: &str,
    rest_ns: u64,
    connects: impl IntoIterator<Item = Connect>,
) -> Result<()> {
    let mut writer = Writer::create(path)?;
    writer.begin(&Start {
        version: "0.1.0".to_owned(),
        host: "web1".to_owned(),
        kernel: "6.12.0".to_owned(),
        attached: "fentry/fexit".to_owned(),
        filters: filters.to_owned(),
        wall_ns: 1_700_000_000_000_000_000,
        monotonic_ns: BEGAN,
    })?;
    let mut last = BEGAN;
    for connect in connects {
        last = last.max(connect.start_ns);
        writer.connect(&connect)?;
    }
    writer.finish(|events| {
        let mut accounting = Accounting::default();
        accounting.kernel.entered = events;
        accounting.kernel.reported = events;
        accounting.decoded = events;
        End {
            events,
            monotonic_ns: last + rest_ns,
            kernel_side: KernelSide {
                checks: Checks {
                    mode: CheckMode::Off,
                    ..Checks::default()
                },
                accounting,
                ..KernelSide::default()
            },
        }
    })?;
    Ok(())
}
