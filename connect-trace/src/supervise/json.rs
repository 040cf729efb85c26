//! The results of supervision as a JSON object on one line. docs/try.md lists the fields.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
};

use serde::Serialize;

use super::{
    against::{Comparison, Row, Sample},
    counts::Counted,
    price::Price,
    strategy::Strategy,
};
use crate::{kernel, report::json::line};

/// Changes if a field is removed or changes its meaning; not if a field is added.
const SCHEMA: &str = "connect-trace-try/1";

/// Writes the counts of a run.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn run(
    out: &mut (impl Write + ?Sized),
    strategy: Strategy,
    status: ExitStatus,
    total_s: f64,
    counted: &Counted,
) -> io::Result<()> {
    line(
        out,
        &Line {
            schema: SCHEMA,
            r#type: "run",
            kernel: kernel::release(),
            rest: OneRun {
                strategy: strategy.to_string(),
                status: status.code(),
                signal: status.signal(),
                total_s,
                supervision: Supervision::of(counted),
            },
        },
    )
}

/// Writes a comparison.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn comparison(
    out: &mut (impl Write + ?Sized),
    comparison: &Comparison,
) -> io::Result<()> {
    line(
        out,
        &Line {
            schema: SCHEMA,
            r#type: "comparison",
            kernel: kernel::release(),
            rest: All {
                measured: &comparison.how,
                range: comparison.range.map(|range| [range.low, range.high]),
                repeats: comparison.repeats,
                strategies: comparison.rows.iter().map(OfStrategy::of).collect(),
                warnings: &comparison.warnings,
            },
        },
    )
}

#[derive(Serialize)]
struct Line<T> {
    schema: &'static str,
    r#type: &'static str,
    kernel: String,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct OneRun {
    strategy: String,
    status: Option<i32>,
    signal: Option<i32>,
    total_s: f64,
    supervision: Supervision,
}

#[derive(Serialize)]
struct All<'a> {
    measured: &'a str,
    range: Option<[u16; 2]>,
    repeats: u32,
    strategies: Vec<OfStrategy>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct OfStrategy {
    strategy: String,
    price: Option<Price>,
    runs: Vec<OfRun>,
}

#[derive(Serialize)]
struct OfRun {
    repeat: u32,
    status: Option<i32>,
    signal: Option<i32>,
    total_s: f64,
    connections: u64,
    failed: u64,
    before_odd: Option<u64>,
    even_count: u64,
    even_mean_ns: Option<f64>,
    odd_count: u64,
    odd_mean_ns: Option<f64>,
    scanned_mean: Option<f64>,
    time_wait_before: Option<u64>,
    supervision: Option<Supervision>,
}

#[derive(Serialize)]
struct Supervision {
    set: u64,
    retries: u64,
    failed: u64,
    left_alone: BTreeMap<&'static str, u64>,
    io_urings: u64,
    processes_with_filters: u64,
    calls: u64,
    mean_ns: Option<f64>,
    max_ns: u64,
}

impl OfStrategy {
    fn of(row: &Row) -> Self {
        Self {
            strategy: row.strategy.to_string(),
            price: row.price,
            runs: row.runs.iter().map(OfRun::of).collect(),
        }
    }
}

impl OfRun {
    fn of(run: &Sample) -> Self {
        let made = &run.made;
        Self {
            repeat: run.repeat,
            status: run.status.code(),
            signal: run.status.signal(),
            total_s: run.took.as_secs_f64(),
            connections: made.count(),
            failed: made.failed,
            before_odd: made.before_odd,
            even_count: made.even.count,
            even_mean_ns: made.even.get(),
            odd_count: made.odd.count,
            odd_mean_ns: made.odd.get(),
            scanned_mean: made.scanned.get(),
            time_wait_before: run.time_wait,
            supervision: run.counted.as_ref().map(Supervision::of),
        }
    }
}

impl Supervision {
    fn of(counted: &Counted) -> Self {
        Self {
            set: counted.set,
            retries: counted.retries,
            failed: counted.failed,
            left_alone: counted
                .reasons()
                .map(|(name, _, count)| (name, count))
                .collect(),
            io_urings: counted.io_urings,
            processes_with_filters: counted.filtered,
            calls: counted.calls,
            mean_ns: counted.mean_ns(),
            max_ns: counted.longest_ns,
        }
    }
}
