//! Reports for the tests of this room.

use std::time::{Duration, SystemTime};

use connect_trace_common::{CheckEstablished, Times};

use crate::stats::report::{Checks, Report};
use crate::{
    connect::{CheckMode, Connect, PortChoice, SourcePort},
    fixtures::connect_from,
    stats::{Groups, Precision, Summary, accounting::Accounting, by::By, exhaustion::Exhausted},
};

/// Returns a report with groups of `--by`; the rest is the report of [`parity`].
pub(crate) fn of_groups(groups: Groups) -> Report {
    Report {
        by: groups.by(),
        precision: groups.precision(),
        top: groups.top(10),
        ..parity()
    }
}

/// Returns a report of two connections from even ports, one from an odd port after a long search, one with a
/// bound port, and two that failed.
pub(crate) fn parity() -> Report {
    let mut summary = Summary::default();
    summary.record(&connect_from(20_000));
    summary.record(&Connect {
        connect_ns: 100_000,
        ..connect_from(20_002)
    });
    let search_ns = Some(2_000_000);
    summary.record(&Connect {
        connect_ns: 2_100_000,
        search_ns,
        scanned: Some(1_001),
        ..connect_from(20_001)
    });
    summary.record(&Connect {
        port: SourcePort::Bound(80),
        port_choice: Some(PortChoice::ExplicitPort),
        scanned: None,
        ..connect_from(0)
    });
    let failed = Connect {
        port: SourcePort::None,
        errno: libc::EADDRNOTAVAIL,
        scanned: Some(2_000),
        ..connect_from(0)
    };
    summary.record(&Connect {
        connect_ns: 4_000_000,
        search_ns,
        checks_watched: true,
        ..failed
    });
    let mut checks = CheckEstablished {
        calls: 3,
        times: Times {
            count: 2,
            total_ns: 1_500,
            max_ns: 1_000,
            ..Times::default()
        },
    };
    checks.times.buckets[2] = 1;
    checks.times.buckets[3] = 1;
    Report {
        kernel: "6.12.0".to_owned(),
        attached: "fentry/fexit".to_owned(),
        at: SystemTime::UNIX_EPOCH,
        elapsed: Duration::from_millis(1_500),
        filters: Vec::new(),
        by: By::Parity,
        precision: Precision::Fine,
        top: summary.by_parity(),
        exhausted: Exhausted::default(),
        ends: None,
        ends_account: None,
        clock_step_ns: None,
        overhead: None,
        budget: None,
        mitigation: None,
        filling: None,
        summary,
        checks: Checks {
            mode: CheckMode::Sampled,
            bursts: 1,
            watched: Duration::from_millis(70),
            functions: vec![("__inet_check_established", checks)],
        },
        time_wait: None,
        accounting: Accounting {
            kernel: connect_trace_common::Counters {
                entered: 7,
                reported: 5,
                ring_full: 1,
                filtered: 12,
                ..Default::default()
            },
            decoded: 5,
            in_flight: 1,
            recursion_misses: Some(0),
            ..Accounting::default()
        },
    }
}
