//! Readings of an invented service.

use std::time::{Duration, SystemTime};

use connect_trace::{
    connect::{
        CallKind, Comm, Connect, Family, Owner, PortChoice, PortRange, SearchRange, SourcePort,
    },
    metrics::{
        Format, Reading, Totals, exposition,
        reading::{LocalPorts, MitigationReading, NamedRoute, Process, RouteEnd, Routes},
        totals::MOST_LABEL_SETS,
    },
    overhead::{ProgramRuns, limiter::Level},
    stats::{
        accounting::Accounting,
        arms::{Arm, Arms, SECONDS_FOR_A_VERDICT},
        mitigation::RouteNumbers,
    },
};
use connect_trace_common::MitigationCounters;

/// Returns a successful connect() with a search of half its time that found this port as the `scanned`th.
pub fn connect(connect_ns: u64, port: u16, scanned: u32) -> Connect {
    Connect {
        kind: CallKind::default(),
        start_ns: 1_000,
        connect_ns,
        search_ns: Some(connect_ns / 2),
        family: Family::V4,
        source: Some([127, 0, 0, 1].into()),
        port: SourcePort::Searched(port),
        destination: Some(([127, 0, 0, 1], 443).into()),
        errno: 0,
        pid: 4_242,
        tid: 4_242,
        comm: Comm::of("secret"),
        uid: 0,
        netns: Some(1),
        cgroup_id: 1,
        owner: Some(Owner::Process),
        range: Some(SearchRange {
            ports: PortRange {
                low: 32_768,
                high: 60_999,
            },
            by_parity: true,
        }),
        port_choice: Some(PortChoice::Default),
        address_bound: Some(false),
        scanned: Some(scanned),
        checks: None,
        checks_watched: false,
        phases: None,
    }
}

/// Returns a connect() that found no port.
pub fn exhausted() -> Connect {
    Connect {
        errno: libc::EADDRNOTAVAIL,
        port: SourcePort::None,
        ..connect(2_000_000, 0, 28_232)
    }
}

/// Returns a connect() that failed before the search.
pub fn failed(errno: i32) -> Connect {
    Connect {
        errno,
        search_ns: None,
        source: None,
        port: SourcePort::None,
        range: None,
        port_choice: None,
        address_bound: None,
        scanned: None,
        ..connect(3_000, 0, 0)
    }
}

/// Returns the reading of a service on an ordinary host.
pub fn ordinary() -> Reading {
    let mut totals = Totals::default();
    let with = |port_choice, family, of: Connect| Connect {
        port_choice: Some(port_choice),
        family,
        ..of
    };
    for of in [
        connect(20_000, 32_768, 1),
        connect(900_000, 32_769, 14_200),
        with(PortChoice::Default, Family::V6, connect(30_000, 32_770, 1)),
        with(PortChoice::Address, Family::V4, connect(40_000, 32_772, 2)),
        with(PortChoice::Range, Family::V4, connect(40_000, 32_774, 3)),
        failed(libc::ENETUNREACH),
        failed(libc::EACCES),
        exhausted(),
    ] {
        totals.record(&of);
    }
    let mut accounting = Accounting {
        decoded: 8,
        recursion_misses: Some(0),
        thread_end_misses: Some(0),
        ..Accounting::default()
    };
    accounting.kernel.entered = 8;
    accounting.kernel.reported = 8;
    Reading {
        totals,
        accounting,
        routes: Routes::default(),
        local_ports: Some(LocalPorts {
            range: 28_232,
            reserved: 2,
            listening_in_range: Some(1),
        }),
        programs: Vec::new(),
        mitigation: None,
        level: Level::Full,
        process: Process {
            cpu: Duration::from_millis(1_500),
            resident_bytes: 12 << 20,
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            open_files: Some(40),
            most_files: Some(1_024),
        },
        kernel: "6.12.107".to_owned(),
        attached: "fentry".to_owned(),
    }
}

/// Returns a reading with every metric and, of those with many series, the largest number of them.
pub fn everything() -> Reading {
    let mut reading = ordinary();
    for errno in 1..400 {
        reading.totals.record(&failed(errno));
    }
    for choice in PortChoice::ALL.map(Some).into_iter().chain([None]) {
        reading.totals.record(&Connect {
            port_choice: choice,
            ..connect(500_000, 32_769, 500)
        });
    }
    reading.accounting = Accounting {
        kretprobe_misses: Some(1),
        fork_misses: Some(2),
        in_flight: 3,
        blind: Duration::from_secs(1),
        ..reading.accounting
    };
    reading.routes = Routes {
        used_ratio: 0.97,
        exhausting: MOST_LABEL_SETS as u64,
        warnings: 5,
        named: (0..MOST_LABEL_SETS as u16)
            .map(|route| NamedRoute {
                source: [10, 0, 0, 1].into(),
                destination: ([10, 0, 0, 2], route).into(),
                used_ratio: 0.5,
            })
            .collect(),
        // The most that a service shows.
        ends: (0..10)
            .map(|route| RouteEnd {
                source: [10, 0, 0, 1].into(),
                destination: ([10, 0, 0, 2], route).into(),
                opens_per_s: 30.5,
                closes_per_s: 2.25,
                second_pass_s: Some(0.0),
                exhausted_s: Some(120.0),
            })
            .collect(),
    };
    reading.programs = (0..30)
        .map(|number| ProgramRuns {
            name: format!("program_{number}"),
            runs: 7,
            time: Duration::from_micros(3),
        })
        .collect();
    reading.level = Level::Sampled(8);
    reading.mitigation = Some(mitigation());
    reading
}

/// Returns a mitigation with a verdict.
fn mitigation() -> MitigationReading {
    let mut arms = Arms::default();
    for call in 0..10 * (SECONDS_FOR_A_VERDICT + 1) {
        for (arm, us) in Arm::ALL.into_iter().zip([20, 2_000]) {
            let of = Connect {
                start_ns: call * 100_000_000,
                ..connect(us * 1_000 + call, 32_769, 1)
            };
            arms.record(arm, &of, 1_000.0);
        }
    }
    arms.record(Arm::Unmitigated, &exhausted(), 1_000.0);
    let verdict = arms.verdict();
    assert!(verdict.ratio.is_some(), "{verdict:?}");
    MitigationReading {
        decisions: MitigationCounters {
            calls: 700,
            applied: 310,
            other_share: 311,
            no_route: 79,
            tested: 400,
            taken: 90,
            acting_ns: 310_000,
            ..MitigationCounters::default()
        },
        routes: RouteNumbers {
            known: 2,
            acting: 1,
            ..RouteNumbers::default()
        },
        arms: arms.totals(),
        verdict: Some(verdict),
    }
}

/// Returns the text of a reading.
pub fn text_of(reading: Reading, format: Format) -> String {
    String::from_utf8(exposition(reading, format)).expect("the formats are text")
}
