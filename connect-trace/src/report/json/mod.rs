//! JSON Lines: one object for each report and each event. `docs/output.schema.json` and `docs/output.md`
//! define the fields. A value that is not known is null.

mod ends;
mod filling;
mod overhead;
mod phases;
pub(crate) mod route_ports;
mod rules;

use std::io::{self, Write};

use connect_trace_common::{BUCKETS, CheckEstablished, buckets::lower_edge_ns};
use serde::Serialize;

use self::{
    ends::Ends,
    filling::FillingObject,
    overhead::{Budget, Overhead},
    phases::{EventPhases, ReportPhases},
};
pub(crate) use self::{ends::write_connection, rules::write_rules};
use super::{mitigation, names, time_wait, warnings::warnings};
use crate::stats::report::Report;
use crate::term::errno;
use crate::{
    clock::{Clock, Time},
    connect::{Connect, Owner, PortChoice, SearchRange},
    stats::{Group, Latency, Scanned, key::PortChoiceKey, port_choices::ChosenPorts},
};

/// Changes if a field is removed or changes its meaning; not if a field is added.
pub(crate) const SCHEMA: &str = "connect-trace/1";

/// Writes an event.
///
/// # Errors
/// If `out` cannot be written.
pub(crate) fn write_event(
    out: &mut (impl Write + ?Sized),
    connect: &Connect,
    clock: &Clock,
) -> io::Result<()> {
    line(out, &Event::of(connect, clock))
}

/// Writes a report.
///
/// # Errors
/// If `out` cannot be written.
pub(crate) fn write_report(out: &mut (impl Write + ?Sized), report: &Report) -> io::Result<()> {
    line(out, &ReportLine::of(report))
}

/// Writes an object and ends its line.
pub(crate) fn line(out: &mut (impl Write + ?Sized), object: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(object)?;
    text.push(b'\n');
    out.write_all(&text)
}

#[derive(Serialize)]
struct Event {
    schema: &'static str,
    r#type: &'static str,
    time: String,
    protocol: &'static str,
    operation: &'static str,
    start_ns: u64,
    connect_ns: u64,
    search_ns: Option<u64>,
    family: &'static str,
    source_address: Option<String>,
    source_port: Option<u16>,
    port_origin: &'static str,
    port_range: Option<Range>,
    pass: Option<&'static str>,
    destination_address: Option<String>,
    destination_port: Option<u16>,
    errno: i32,
    errno_name: Option<String>,
    pid: u32,
    tid: u32,
    comm: String,
    uid: u32,
    netns: Option<u32>,
    cgroup_id: u64,
    owner: Option<&'static str>,
    strategy: Option<&'static str>,
    address_bound: Option<bool>,
    scanned: Option<u32>,
    checks: Option<u32>,
    checks_watched: bool,
    phases: Option<EventPhases>,
}

impl Event {
    fn of(connect: &Connect, clock: &Clock) -> Self {
        Self {
            schema: SCHEMA,
            r#type: "event",
            time: clock.at(connect.start_ns).rfc3339(),
            protocol: connect.kind.protocol.name(),
            operation: connect.kind.operation.name(),
            start_ns: connect.start_ns,
            connect_ns: connect.connect_ns,
            search_ns: connect.search_ns,
            family: names::family(connect.family),
            source_address: connect.source.map(|address| address.to_string()),
            source_port: connect.port.number(),
            port_origin: names::port_origin(connect.port),
            port_range: connect.range.map(Range::of),
            pass: connect.pass().map(names::pass),
            destination_address: connect.destination.map(|to| to.ip().to_string()),
            destination_port: connect.destination.map(|to| to.port()),
            errno: connect.errno,
            errno_name: (connect.errno != 0).then(|| errno::name(connect.errno)),
            pid: connect.pid,
            tid: connect.tid,
            comm: connect.comm.to_string(),
            uid: connect.uid,
            netns: connect.netns,
            cgroup_id: connect.cgroup_id,
            owner: connect.owner.map(Owner::name),
            strategy: connect.port_choice.map(PortChoice::name),
            address_bound: connect.address_bound,
            scanned: connect.scanned,
            checks: connect.checks,
            checks_watched: connect.checks_watched,
            phases: EventPhases::of(connect),
        }
    }
}

#[derive(Serialize)]
struct Range {
    low: u16,
    high: u16,
    by_parity: bool,
}

impl Range {
    fn of(range: SearchRange) -> Self {
        Self {
            low: range.ports.low,
            high: range.ports.high,
            by_parity: range.by_parity,
        }
    }
}

#[derive(Serialize)]
struct ReportLine<'a> {
    schema: &'static str,
    r#type: &'static str,
    kernel: &'a str,
    attached: &'a str,
    filters: &'a [String],
    start: String,
    end: String,
    elapsed_ns: u64,
    connects: u64,
    connects_fast: u64,
    connects_without_search: u64,
    protocols: Vec<ProtocolCount>,
    by: &'static str,
    percentile_error: f64,
    groups: Vec<GroupOf>,
    rest: Option<Rest>,
    fast: Option<GroupTimes>,
    passes: Vec<GroupOf>,
    failures: Vec<Failure>,
    ranges: Vec<RangeCount>,
    strategies: Vec<StrategyOf>,
    phases: Option<ReportPhases>,
    checks: Checks,
    time_wait: Option<time_wait::Object>,
    accounting: Option<Accounting>,
    overhead: Option<Overhead<'a>>,
    budget: Option<Budget>,
    ends: Option<Ends>,
    mitigation: Option<mitigation::Object<'a>>,
    filling: Option<FillingObject<'a>>,
    warnings: Vec<Warning>,
}

impl<'a> ReportLine<'a> {
    fn of(report: &'a Report) -> Self {
        let (summary, top) = (&report.summary, &report.top);
        let end = Time::from(report.at);
        let passes = [
            ("first", &summary.first_pass),
            ("second", &summary.second_pass),
            ("single", &summary.only_pass),
        ];
        Self {
            schema: SCHEMA,
            r#type: "report",
            kernel: &report.kernel,
            attached: &report.attached,
            filters: &report.filters,
            start: end.before(report.elapsed).rfc3339(),
            end: end.rfc3339(),
            elapsed_ns: saturated(report.elapsed.as_nanos()),
            connects: summary.connects,
            connects_fast: summary.fast,
            connects_without_search: summary.without_search,
            protocols: summary
                .kinds
                .iter()
                .map(|(kind, &connects)| ProtocolCount {
                    protocol: kind.protocol.name(),
                    operation: kind.operation.name(),
                    connects,
                })
                .collect(),
            by: names::by(report.by),
            percentile_error: report.precision.error(),
            groups: top
                .groups
                .iter()
                .map(|named| GroupOf {
                    key: names::key(named.key),
                    comm: named.comm.map(|comm| comm.to_string()),
                    times: GroupTimes::of(&named.group),
                })
                .collect(),
            rest: top.rest.as_ref().map(|rest| Rest {
                groups: rest.groups.count,
                groups_at_least: rest.groups.or_more,
                evictions: rest.evictions,
                times: GroupTimes::of(&rest.group),
            }),
            fast: top.fast.as_ref().map(GroupTimes::of),
            passes: passes
                .into_iter()
                .filter(|(_, group)| group.connect.count() > 0)
                .map(|(name, group)| GroupOf {
                    key: name.to_owned(),
                    comm: None,
                    times: GroupTimes::of(group),
                })
                .collect(),
            failures: failures(report),
            ranges: summary
                .ranges
                .iter()
                .map(|(&range, &connects)| RangeCount {
                    range: Range::of(range),
                    connects,
                })
                .collect(),
            strategies: summary
                .port_choices
                .all()
                .into_iter()
                .map(|(choice, chosen)| StrategyOf::of(choice, chosen))
                .collect(),
            phases: ReportPhases::of(summary),
            checks: Checks::of(report),
            time_wait: report.time_wait.as_ref().map(time_wait::Object::of),
            accounting: Accounting::of(&report.accounting),
            overhead: report
                .overhead
                .as_ref()
                .map(|overhead| Overhead::of(overhead, report.elapsed)),
            budget: report.budget.as_ref().map(Budget::of),
            ends: Ends::of(report),
            mitigation: report.mitigation.as_ref().map(mitigation::Object::of),
            filling: report.filling.as_ref().map(FillingObject::of),
            warnings: warnings(report)
                .into_iter()
                .map(|warning| Warning {
                    kind: warning.kind,
                    text: warning.text,
                })
                .collect(),
        }
    }
}

/// Calls of a protocol and an operation.
#[derive(Serialize)]
struct ProtocolCount {
    protocol: &'static str,
    operation: &'static str,
    connects: u64,
}

/// A group of `--by`, or a pass of the port search.
#[derive(Serialize)]
struct GroupOf {
    key: String,
    comm: Option<String>,
    #[serde(flatten)]
    times: GroupTimes,
}

#[derive(Serialize)]
struct Rest {
    groups: u64,
    groups_at_least: bool,
    evictions: u64,
    #[serde(flatten)]
    times: GroupTimes,
}

#[derive(Serialize)]
struct Failure {
    errno: Option<i32>,
    errno_name: Option<String>,
    #[serde(flatten)]
    times: GroupTimes,
}

/// Returns the failures by errno. Without an errno are failures of errnos that are not kept apart, and of
/// calls below `--min-latency`.
fn failures(report: &Report) -> Vec<Failure> {
    let summary = &report.summary;
    let known = summary.failed.iter().map(|(&errno, group)| Failure {
        errno: (errno != 0).then_some(errno),
        errno_name: (errno != 0).then(|| errno::name(errno)),
        times: GroupTimes::of(group),
    });
    let fast = (summary.failed_fast.connect.count() > 0).then(|| Failure {
        errno: None,
        errno_name: None,
        times: GroupTimes::of(&summary.failed_fast),
    });
    known.chain(fast).collect()
}

/// Times of a group.
#[derive(Serialize)]
struct GroupTimes {
    connect: Times,
    search: Times,
    scanned: Ports,
}

impl GroupTimes {
    fn of(group: &Group) -> Self {
        Self {
            connect: Times::of(&group.connect),
            search: Times::of(&group.search),
            scanned: Ports::of(&group.scanned),
        }
    }
}

/// Ports that searches scanned.
#[derive(Serialize)]
struct Ports {
    count: u64,
    total_ports: u64,
    mean_ports: Option<f64>,
    max_ports: Option<u32>,
}

impl Ports {
    fn of(scanned: &Scanned) -> Self {
        Self {
            count: scanned.count,
            total_ports: scanned.total,
            mean_ports: scanned.mean(),
            max_ports: (scanned.count > 0).then_some(scanned.max),
        }
    }
}

/// The connections of a port choice; without a strategy, those of port choices that are not kept apart.
#[derive(Serialize)]
struct StrategyOf {
    strategy: Option<&'static str>,
    width: Option<u32>,
    address_bound: Option<bool>,
    connects_failed: u64,
    #[serde(flatten)]
    times: GroupTimes,
}

impl StrategyOf {
    fn of(choice: Option<PortChoiceKey>, chosen: &ChosenPorts) -> Self {
        let range = choice.filter(|choice| choice.port_choice == PortChoice::Range);
        Self {
            strategy: choice.map(|choice| choice.port_choice.name()),
            width: range.map(|choice| choice.width),
            address_bound: range.map(|choice| choice.address_bound),
            connects_failed: chosen.failed,
            times: GroupTimes::of(&chosen.group),
        }
    }
}

/// Distribution of times.
#[derive(Serialize)]
pub(crate) struct Times {
    count: u64,
    total_ns: u64,
    mean_ns: Option<f64>,
    p50_ns: Option<u64>,
    p90_ns: Option<u64>,
    p99_ns: Option<u64>,
    p999_ns: Option<u64>,
    max_ns: Option<u64>,
    buckets: Vec<Bucket>,
}

impl Times {
    pub(crate) fn of(latency: &Latency) -> Self {
        Self {
            count: latency.count(),
            total_ns: saturated(latency.total_ns()),
            mean_ns: latency.mean_ns(),
            p50_ns: latency.quantile_ns(0.5),
            p90_ns: latency.quantile_ns(0.9),
            p99_ns: latency.quantile_ns(0.99),
            p999_ns: latency.quantile_ns(0.999),
            max_ns: latency.max_ns(),
            buckets: Bucket::all(latency.buckets()),
        }
    }
}

#[derive(Serialize)]
struct Bucket {
    from_ns: u64,
    to_ns: Option<u64>,
    count: u64,
}

impl Bucket {
    /// Returns the buckets that are not empty.
    fn all(counts: &[u64; BUCKETS]) -> Vec<Self> {
        let counts = counts.iter().copied().enumerate();
        counts
            .filter(|&(_, count)| count > 0)
            .map(|(bucket, count)| Self {
                from_ns: lower_edge_ns(bucket),
                to_ns: (bucket + 1 < BUCKETS).then(|| lower_edge_ns(bucket + 1)),
                count,
            })
            .collect()
    }
}

#[derive(Serialize)]
struct RangeCount {
    #[serde(flatten)]
    range: Range,
    connects: u64,
}

#[derive(Serialize)]
struct Checks {
    mode: &'static str,
    bursts: u64,
    watched_ns: u64,
    connects_watched: u64,
    candidate_ns: Option<f64>,
    candidate_watched_ns: Option<f64>,
    connects_counted: u64,
    calls_counted: u64,
    functions: Vec<CheckFunction>,
}

impl Checks {
    fn of(report: &Report) -> Self {
        let (checks, summary) = (&report.checks, &report.summary);
        Self {
            mode: checks.mode.name(),
            bursts: checks.bursts,
            watched_ns: saturated(checks.watched.as_nanos()),
            connects_watched: summary.checks_watched,
            candidate_ns: summary.candidates.mean_ns(),
            candidate_watched_ns: summary.candidates_watched.mean_ns(),
            connects_counted: summary.checks_counted,
            calls_counted: summary.checks,
            functions: checks
                .functions
                .iter()
                .map(|(name, function)| CheckFunction::of(name, function))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct CheckFunction {
    name: &'static str,
    calls: u64,
    timed: u64,
    total_ns: u64,
    mean_ns: Option<f64>,
    max_ns: Option<u64>,
    buckets: Vec<Bucket>,
}

impl CheckFunction {
    fn of(name: &'static str, function: &CheckEstablished) -> Self {
        let timed = function.times.count > 0;
        Self {
            name,
            calls: function.calls,
            timed: function.times.count,
            total_ns: function.times.total_ns,
            mean_ns: timed.then(|| function.times.total_ns as f64 / function.times.count as f64),
            max_ns: timed.then_some(function.times.max_ns),
            buckets: Bucket::all(&function.times.buckets),
        }
    }
}

#[derive(Serialize)]
struct Accounting {
    entered: u64,
    reported: u64,
    lost: u64,
    lost_ring_full: u64,
    lost_in_flight_full: u64,
    lost_return_missed: u64,
    lost_undecodable: u64,
    in_flight: u64,
    in_ring: u64,
    left_out: u64,
    left_out_fast: u64,
    left_out_succeeded: u64,
    unsampled: u64,
    filtered: u64,
    search_return_missed: u64,
    not_followed: u64,
    programs_skipped: Option<u64>,
    kretprobe_misses: Option<u64>,
    fork_misses: Option<u64>,
    thread_end_misses: Option<u64>,
    blind_ns: u64,
    adds_up: bool,
    complete: bool,
}

impl Accounting {
    /// Returns the account; `None` if a recording does not have it.
    fn of(accounting: &crate::stats::accounting::Accounting) -> Option<Self> {
        let kernel = &accounting.kernel;
        accounting.unknown.is_none().then(|| Self {
            entered: kernel.entered,
            reported: accounting.decoded,
            lost: accounting.lost(),
            lost_ring_full: kernel.ring_full,
            lost_in_flight_full: kernel.in_flight_full,
            lost_return_missed: kernel.return_missed,
            lost_undecodable: accounting.undecodable,
            in_flight: accounting.in_flight,
            in_ring: accounting.in_ring().saturating_sub(accounting.undecodable),
            left_out: accounting.left_out(),
            left_out_fast: kernel.fast,
            left_out_succeeded: kernel.succeeded,
            unsampled: kernel.unsampled,
            filtered: kernel.filtered,
            search_return_missed: kernel.search_return_missed,
            not_followed: kernel.not_followed,
            programs_skipped: accounting.recursion_misses,
            kretprobe_misses: accounting.kretprobe_misses,
            fork_misses: accounting.fork_misses,
            thread_end_misses: accounting.thread_end_misses,
            blind_ns: saturated(accounting.blind.as_nanos()),
            adds_up: accounting.adds_up(),
            complete: accounting.complete(),
        })
    }
}

#[derive(Serialize)]
struct Warning {
    kind: &'static str,
    text: String,
}

/// Returns nanoseconds; times of more than 584 years become the maximum.
fn saturated(ns: u128) -> u64 {
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
