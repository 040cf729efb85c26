//! As many connections as the machine can make, from more threads than it has CPUs: none is lost, and none is counted
//! twice. `cargo xtask bench-load` does the same for a minute, and prints the rates.

use anyhow::{Context as _, Result};
use connect_trace::{kernel::preemption::preempting_model, probes::attach::AttachMode};
use serde_json::Value;

use crate::{
    Test,
    process::until,
    program::{attach, report, tracing},
    trace::crowd_is_seen,
    truth::Truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        every_call_of_a_flood_is_in_the_report,
    ],
    OldestAndNewest: [
        each_report_of_a_flood_adds_up_beyond_a_full_ring_buffer,
    ],
];

fn every_call_of_a_flood_is_in_the_report(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let is_preempting = preempting_model().is_some();
    until("the kernel skips no program", || {
        // With frequent reports, so that the kernel's maps are read while the programs run.
        let process = tracing(&format!("--format json -i 0.2 {}", attach(mode)))?;
        let calls = Truth::start("rate --refused --threads 32 --seconds 2")?.calls()?;
        process.signal(libc::SIGINT)?;
        let ended = report(process)?;
        let reports: serde_json::Result<Vec<Value>> =
            ended.stdout.lines().map(serde_json::from_str).collect();
        let reports = reports.with_context(|| ended.to_string())?;
        let line = reports.last().context("no report")?;
        // A kernel that preempts skips programs while a thread is stopped in the system call that reads a map.
        if is_preempting && line["accounting"]["programs_skipped"].as_u64() > Some(0) {
            return Ok(None);
        }
        assert_each_is_told(&reports, calls);
        Ok(Some(()))
    })
}

fn assert_each_is_told(reports: &[Value], calls: u64) {
    assert!(reports.len() > 1, "{reports:?}");
    for report in reports {
        assert_eq!(report["accounting"]["complete"], true, "{report}");
    }
    let connects = reports.iter().map(|report| report["connects"].as_u64());
    assert_eq!(connects.sum::<Option<u64>>(), Some(calls), "{reports:?}");
    let line = &reports[reports.len() - 1];
    let accounting = &line["accounting"];
    assert_eq!(accounting["entered"], calls, "{line}");
    assert_eq!(accounting["reported"], calls, "{line}");
    for nothing in ["lost", "in_flight", "in_ring", "search_return_missed"] {
        assert_eq!(accounting[nothing], 0, "{nothing}: {line}");
    }
    assert_eq!(accounting["adds_up"], true, "{line}");
}

/// Tests that reports add up although calls continue to be lost while a report is made.
fn each_report_of_a_flood_adds_up_beyond_a_full_ring_buffer(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let process = tracing(&format!(
        "--format json -i 0.1 --ring-buffer 64k {}",
        attach(mode)
    ))?;
    // A machine that has other work may make too few in a second.
    for _ in 0..10 {
        Truth::start("rate --refused --threads 8 --seconds 1")?.calls()?;
        if process
            .stdout()
            .lines()
            .rev()
            .nth(1)
            .map(lost)
            .transpose()?
            > Some(0)
        {
            break;
        }
    }
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    let mut most = 0;
    for line in ended.stdout.lines() {
        most = lost(line).with_context(|| ended.to_string())?;
    }
    assert!(most > 0, "{ended}");
    Ok(())
}

/// Returns how many records a report says were lost to a full ring buffer, after a check that it adds up.
fn lost(line: &str) -> Result<u64> {
    let report: Value = serde_json::from_str(line)?;
    let accounting = &report["accounting"];
    assert_eq!(accounting["adds_up"], true, "{report}");
    accounting["lost_ring_full"].as_u64().context("no number")
}
