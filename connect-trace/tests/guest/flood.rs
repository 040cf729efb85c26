//! As many connects as the machine can make, from more threads than it has CPUs: none is lost, and none is
//! counted twice. `cargo xtask bench-load` is the same for a minute, and says the rates.

use anyhow::{Context as _, Result};
use connect_trace::probes::AttachMode;
use serde_json::Value;

use crate::{
    Test,
    program::{attach, report, tracing},
    trace::crowd_is_seen,
    truth::Truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![every_call_of_a_flood_is_in_the_report];

fn every_call_of_a_flood_is_in_the_report(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    // With a report each second: what is kept in the kernel is looked at while the programs run.
    let process = tracing(&format!("--format json -i 1 {}", attach(mode)))?;
    let calls = Truth::start("rate --refused --threads 32 --seconds 4")?.calls()?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    let reports: serde_json::Result<Vec<Value>> =
        ended.stdout.lines().map(serde_json::from_str).collect();
    let reports = reports.with_context(|| ended.to_string())?;
    assert!(reports.len() > 3, "{ended}");
    for report in &reports {
        assert_eq!(report["accounting"]["complete"], true, "{report}");
    }
    let connects = reports.iter().map(|report| report["connects"].as_u64());
    assert_eq!(connects.sum::<Option<u64>>(), Some(calls), "{ended}");
    let line = reports.last().context("no report")?;

    let accounting = &line["accounting"];
    assert_eq!(accounting["entered"], calls, "{line}");
    assert_eq!(accounting["reported"], calls, "{line}");
    for nothing in ["lost", "in_flight", "in_ring", "search_return_missed"] {
        assert_eq!(accounting[nothing], 0, "{nothing}: {line}");
    }
    assert_eq!(accounting["adds_up"], true, "{line}");
    Ok(())
}
