//! Cost of a million connections in the daemon from the ring buffer to the report: CPU time and memory, as JSON on
//! stderr; the report comes on stdout. Needs root, and no kprobes.
//!
//! `cargo run --release -p connect-trace --example footprint -- [connect-trace's options]`

mod filled_ring;
#[path = "../../benches/records/mod.rs"]
mod records;

use std::{
    fs,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use connect_trace::{
    cli::Cli,
    report::output::Output,
    stats::{Traced, report::KernelSide},
    trace::tracer::Records,
};
use serde_json::json;

use self::{filled_ring::Filler, records::cpu_time};

/// Default size of a trace's ring buffer.
const RING_BYTES: u32 = 8 << 20;
/// Numbers of connections after which the cost is measured.
const EVENTS: [u64; 2] = [1_000_000, 10_000_000];

fn main() -> Result<()> {
    let args = Cli::parse().trace.output;
    let (mut filler, ring) = Filler::new(RING_BYTES, &records::all())?;
    let mut records = Records::new(ring, records::decoder());
    let mut output = Output::new(
        &args,
        Traced {
            kernel: "made up".to_owned(),
            attached: "a test run".to_owned(),
            filters: Vec::new(),
        },
    );
    // Before the first record: the share of the program itself.
    show("begin", 0, Duration::ZERO)?;
    let mut took = Duration::ZERO;
    let mut printed = Ok(());
    for events in EVENTS {
        while records.decoded() < events {
            filler.fill(events - records.decoded())?;
            let before = cpu_time::now();
            records.drain(Duration::MAX, |connect| {
                let taken = output.connect(connect);
                if printed.is_ok() {
                    printed = taken;
                }
            });
            output.flush()?;
            took += cpu_time::now() - before;
        }
        show("drained", records.decoded(), took)?;
    }
    printed?;
    let before = cpu_time::now();
    output.report(SystemTime::now(), took, KernelSide::default())?;
    show("report", records.decoded(), cpu_time::now() - before)
}

/// Prints the cost so far. `took` is the time for a report, or for a million connections.
fn show(what: &str, events: u64, took: Duration) -> Result<()> {
    let millions = (events as f64 / 1e6).max(1.0);
    let took_ms = took.as_secs_f64() * 1e3;
    let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let kib = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.and_then(|number| number.parse::<u64>().ok())
    };
    let line = json!({
        "after": what,
        "events": events,
        "cpu_ms": if what == "report" { took_ms } else { took_ms / millions },
        "anonymous_kib": kib("RssAnon"),
        "resident_kib": kib("VmRSS"),
        "resident_most_kib": kib("VmHWM"),
    });
    eprintln!("{line}");
    Ok(())
}
