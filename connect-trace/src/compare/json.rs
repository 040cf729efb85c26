//! A comparison as a JSON object on one line. docs/load.md lists the fields.

use std::io::{self, Write};

use serde::Serialize;

use super::{Comparison, Sample, StrategyResult, advice, how};
use crate::load::occupancy::{STEPS, Step};
use crate::{
    load::{features::Features, strategy::Strategy},
    report::json::line,
};

/// Changes if a field is removed or changes its meaning; not if a field is added.
const SCHEMA: &str = "connect-trace-compare/1";

/// Writes a comparison.
///
/// # Errors
/// If `out` cannot be written.
pub(super) fn write(out: &mut (impl Write + ?Sized), comparison: &Comparison) -> io::Result<()> {
    line(out, &Line::of(comparison))
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    r#type: &'static str,
    kernel: &'a str,
    measured: &'a str,
    range: [u16; 2],
    protocol: String,
    family: &'static str,
    connections: u32,
    threads: u16,
    repeats: u32,
    seed: u64,
    features: Features,
    left_out: Vec<String>,
    strategies: Vec<OfStrategy<'a>>,
    recommended: Option<String>,
    words: Vec<String>,
    how: Option<How>,
}

#[derive(Serialize)]
struct How {
    language: String,
    strategy: String,
    lines: String,
}

#[derive(Serialize)]
struct OfStrategy<'a> {
    strategy: String,
    first_pass_connections: Option<u32>,
    runs: Vec<OfRun<'a>>,
    curve: Vec<OfStep>,
}

#[derive(Serialize)]
struct OfRun<'a> {
    repeat: u32,
    attempts: u64,
    errors: u64,
    total_s: f64,
    connections_per_second: f64,
    mean_ns: Option<f64>,
    even_mean_ns: Option<f64>,
    odd_mean_ns: Option<f64>,
    p99_ns: Option<f64>,
    scanned_mean: Option<f64>,
    tries_mean: f64,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct OfStep {
    from: f64,
    to: f64,
    count: u64,
    errors: u64,
    mean_ns: Option<f64>,
}

impl<'a> Line<'a> {
    fn of(comparison: &'a Comparison) -> Self {
        Self {
            schema: SCHEMA,
            r#type: "comparison",
            kernel: &comparison.kernel,
            measured: &comparison.how,
            range: [comparison.range.low, comparison.range.high],
            protocol: comparison.protocol.to_string(),
            family: if comparison.v6 { "IPv6" } else { "IPv4" },
            connections: comparison.connections,
            threads: comparison.threads,
            repeats: comparison.repeats,
            seed: comparison.seed,
            features: comparison.features,
            left_out: comparison
                .left_out
                .iter()
                .map(Strategy::to_string)
                .collect(),
            strategies: comparison.rows.iter().map(OfStrategy::of).collect(),
            recommended: advice::best(comparison).map(|row| row.strategy.to_string()),
            words: advice::words(comparison),
            how: comparison.language.and_then(|language| {
                let (strategy, lines) = how::lines(comparison, language)?;
                Some(How {
                    language: language.name(),
                    strategy: strategy.to_string(),
                    lines,
                })
            }),
        }
    }
}

impl<'a> OfStrategy<'a> {
    fn of(row: &'a StrategyResult) -> Self {
        let first_pass = row.samples.iter().filter_map(|run| run.first_pass);
        Self {
            strategy: row.strategy.to_string(),
            first_pass_connections: first_pass.min(),
            runs: row.samples.iter().map(OfRun::of).collect(),
            curve: row.curve.steps.iter().enumerate().map(OfStep::of).collect(),
        }
    }
}

impl<'a> OfRun<'a> {
    fn of(run: &'a Sample) -> Self {
        Self {
            repeat: run.repeat,
            attempts: run.attempts,
            errors: run.errors,
            total_s: run.total_s,
            connections_per_second: run.per_second,
            mean_ns: run.mean_ns,
            even_mean_ns: run.even_ns,
            odd_mean_ns: run.odd_ns,
            p99_ns: run.p99_ns,
            scanned_mean: run.scanned,
            tries_mean: run.tries,
            warnings: &run.warnings,
        }
    }
}

impl OfStep {
    fn of((number, step): (usize, &Step)) -> Self {
        let share = |number: usize| number as f64 / STEPS as f64;
        Self {
            from: share(number),
            to: share(number + 1),
            count: step.count,
            errors: step.errors,
            mean_ns: step.mean_ns(),
        }
    }
}
