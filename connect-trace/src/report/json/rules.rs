//! The JSON line of the results of rules.

use std::io::{self, Write};

use serde::Serialize;

use super::{SCHEMA, line};
use crate::rules::{Aggregate, Bounds, Condition, Finding, Findings, Offender};

/// Number of offenders that a line has of each rule.
const MOST_OFFENDERS: usize = 20;

/// Writes the results.
///
/// # Errors
/// If `out` cannot be written.
pub(crate) fn write_rules(out: &mut (impl Write + ?Sized), findings: &Findings) -> io::Result<()> {
    line(out, &RulesLine::of(findings))
}

#[derive(Serialize)]
struct RulesLine<'a> {
    schema: &'static str,
    r#type: &'static str,
    verdict: &'static str,
    filters: &'a [String],
    connects: u64,
    rules: Vec<Rule<'a>>,
}

impl<'a> RulesLine<'a> {
    fn of(findings: &'a Findings) -> Self {
        Self {
            schema: SCHEMA,
            r#type: "rules",
            verdict: findings.verdict().name(),
            filters: &findings.filters,
            connects: findings.calls,
            rules: findings.rules.iter().map(Rule::of).collect(),
        }
    }
}

#[derive(Serialize)]
struct Rule<'a> {
    rule: String,
    verdict: &'static str,
    broken: u64,
    undecided: Option<u64>,
    value: Option<Value>,
    reasons: &'a [String],
    offenders: Vec<OffenderLine>,
    offenders_other: u64,
}

impl<'a> Rule<'a> {
    fn of(finding: &'a Finding) -> Self {
        let beyond = finding.offenders.iter().skip(MOST_OFFENDERS);
        let beyond: u64 = beyond.map(|offender| offender.calls).sum();
        let shown = finding.offenders.iter().take(MOST_OFFENDERS);
        Self {
            rule: finding.condition.to_string(),
            verdict: finding.verdict.name(),
            broken: finding.broken,
            undecided: finding.undecided,
            value: finding
                .value
                .map(|value| Value::of(&finding.condition, value)),
            reasons: &finding.reasons,
            offenders: shown.map(OffenderLine::of).collect(),
            offenders_other: finding.other_calls + beyond,
        }
    }
}

/// The bounds of an aggregate, in nanoseconds, percent, or a number.
#[derive(Serialize)]
struct Value {
    low: f64,
    high: Option<f64>,
}

impl Value {
    fn of(condition: &Condition, bounds: Bounds) -> Self {
        let Bounds { low, high } = match condition.aggregate() {
            Some(Aggregate::Count) => bounds,
            _ => condition.field().shown(bounds),
        };
        Self {
            low,
            high: Some(high).filter(|high| high.is_finite()),
        }
    }
}

#[derive(Serialize)]
struct OffenderLine {
    pid: u32,
    comm: String,
    destination_address: Option<String>,
    destination_port: Option<u16>,
    connects: u64,
    value: String,
}

impl OffenderLine {
    fn of(offender: &Offender) -> Self {
        Self {
            pid: offender.pid,
            comm: offender.comm.to_string(),
            destination_address: offender.destination.map(|to| to.ip().to_string()),
            destination_port: offender.destination.map(|to| to.port()),
            connects: offender.calls,
            value: offender.value.clone(),
        }
    }
}
