//! Reasons to doubt the figures of a report, and resources that run out.

use super::{ends, time_wait};
use crate::stats::report::Report;
use crate::stats::{Latency, by::By, distinct::Number, groups::MOST_GROUPS};
use crate::term::numbers::counted;

/// With fewer connections, the 99th percentile is the longest time.
const FEW: u64 = 100;

/// Maximum number of groups that a warning names.
const NAMED: usize = 4;

/// Minimum share of connections with watched long searches for the warning that times are too long.
const WATCHED: f64 = 0.05;

/// A reason to doubt a report, or to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// Name for programs.
    pub kind: &'static str,
    /// Text for people.
    pub text: String,
}

/// Returns every reason to doubt this report, then the routes whose ports run out, and the advice on TIME_WAIT.
#[must_use]
pub(crate) fn warnings(report: &Report) -> Vec<Warning> {
    [
        lost(report),
        incomplete(report),
        skipped(report),
        blind(report),
        sampled(report),
        unwatched(report),
        watched(report),
        mixed(report),
        few_samples(report),
        evicted(report),
        clock_step(report),
    ]
    .into_iter()
    .flatten()
    .chain(report.ends_account.iter().flat_map(ends::warnings))
    .chain(exhausted(report))
    .chain(time_wait::advice(report).map(|text| ("time_wait", text)))
    .map(|(kind, text)| Warning { kind, text })
    .collect()
}

type Reason = Option<(&'static str, String)>;

fn lost(report: &Report) -> Reason {
    let lost = report.accounting.lost();
    let entered = report.accounting.kernel.entered;
    (lost > 0).then(|| {
        let text =
            format!("{lost} of {entered} connect() calls since the start were lost, and are not part of any figure");
        ("lost", text)
    })
}

fn incomplete(report: &Report) -> Reason {
    (!report.accounting.adds_up()).then(|| {
        let text = "the account does not add up: connect() calls may be missing".to_owned();
        ("incomplete", text)
    })
}

fn skipped(report: &Report) -> Reason {
    let skipped = report.accounting.recursion_misses.unwrap_or(0);
    (skipped > 0).then(|| {
        let text = format!(
            "the kernel skipped {skipped} runs of programs: connect() calls may be missing; --attach kprobe sees all"
        );
        ("programs_skipped", text)
    })
}

fn blind(report: &Report) -> Reason {
    let blind = report.accounting.blind;
    (!blind.is_zero()).then(|| {
        let text = format!(
            "the probes were detached for {:.2} s since the start, to keep --max-overhead: connect() calls of \
             that time are not part of any figure",
            blind.as_secs_f64()
        );
        ("blind", text)
    })
}

fn sampled(report: &Report) -> Reason {
    let kernel = &report.accounting.kernel;
    report.accounting.sampled().then(|| {
        let text = format!(
            "{} of {} connect() calls since the start were counted without a record (--max-overhead, \
             --record-sample): the figures are from a sample",
            kernel.unsampled, kernel.entered
        );
        ("sampled", text)
    })
}

/// Warns if all candidate checks should be watched, and some were not because of `--max-overhead`.
fn unwatched(report: &Report) -> Reason {
    let unwatched = report.budget.as_ref()?.unwatched;
    let always = report.checks.mode.counts();
    (always && !unwatched.is_zero()).then(|| {
        let text = format!(
            "port checks were not watched for {:.2} s, to keep --max-overhead",
            unwatched.as_secs_f64()
        );
        ("unwatched", text)
    })
}

fn watched(report: &Report) -> Reason {
    let summary = &report.summary;
    let (watched, all) = (summary.searches_watched, summary.connects);
    (watched as f64 > all as f64 * WATCHED).then(|| {
        let means = summary.candidates_watched.mean_ns();
        let by = match means.zip(summary.candidates.mean_ns()) {
            Some((with, without)) => {
                format!("which then took {with:.0} ns per candidate port instead of {without:.0}")
            }
            None => "which makes them longer".to_owned(),
        };
        let text = format!(
            "port checks were watched in the long searches of {watched} of {all} connect() calls, {by}; \
             --check-established off avoids this"
        );
        ("watched", text)
    })
}

fn mixed(report: &Report) -> Reason {
    (report.summary.mixes_protocols() && report.by != By::Protocol).then(|| {
        let text =
            "the figures are of several protocols together; --by protocol splits them".to_owned();
        ("mixed_protocols", text)
    })
}

fn few_samples(report: &Report) -> Reason {
    let is_few = |latency: &Latency| latency.has_percentiles() && latency.count() < FEW;
    let few: Vec<String> = report
        .shown_groups()
        .into_iter()
        .filter(|(_, group)| is_few(&group.connect))
        .map(|(name, group)| format!("{name} ({})", group.connect.count()))
        .collect();
    (!few.is_empty()).then(|| {
        let shown = few[..few.len().min(NAMED)].join(", ");
        let more = match few.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("p99 of fewer than {FEW} connect() calls: {shown}{more}");
        ("few_samples", text)
    })
}

fn evicted(report: &Report) -> Reason {
    let evictions = report.top.rest.as_ref().map_or(0, |rest| rest.evictions);
    (evictions > 0).then(|| {
        let text = format!(
            "more than {MOST_GROUPS} groups: {evictions} times, a group with little time was moved to the rest; \
             if the group came again, its figures do not include that part"
        );
        ("groups_evicted", text)
    })
}

/// Maximum number of routes that are named.
const ROUTES: usize = 3;

/// Returns the routes whose ports run out, although that makes no figure doubtful.
fn exhausted(report: &Report) -> Vec<(&'static str, String)> {
    let exhausted = &report.exhausted;
    let mut all: Vec<_> = exhausted
        .routes
        .iter()
        .take(ROUTES)
        .map(|found| {
            let connects = found.evidence.connects;
            let text = format!(
                "{found}, seen by {}",
                counted(connects, "connect() call", "connect() calls")
            );
            ("exhaustion", text)
        })
        .collect();
    let more = Number::from(exhausted.routes.len().saturating_sub(ROUTES)) + exhausted.dropped;
    if !more.is_zero() {
        let routes = if more.count == 1 { "route" } else { "routes" };
        let text = format!("ports are running out on {more} more {routes}");
        all.push(("exhaustion", text));
    }
    all
}

fn clock_step(report: &Report) -> Reason {
    report.clock_step_ns.map(|ns| {
        let text = format!(
            "the clock was changed by {:+.3} s, or the host slept: times of day before and after cannot be compared",
            ns as f64 / 1e9
        );
        ("clock_step", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::CheckMode,
        fixtures::connect_from,
        report::example::{of_groups, parity},
        stats::{Groups, by::By},
    };

    fn kinds(report: &Report) -> Vec<&'static str> {
        warnings(report)
            .iter()
            .map(|warning| warning.kind)
            .collect()
    }

    fn sound() -> Report {
        let mut report = parity();
        report.accounting.kernel.ring_full = 0;
        report.accounting.kernel.entered -= 1;
        report.summary = Default::default();
        for _ in 0..FEW {
            report.summary.record(&connect_from(20_000));
        }
        report
    }

    #[test]
    fn a_sound_report_has_no_warning() {
        assert_eq!(kinds(&sound()), [""; 0]);
    }

    #[test]
    fn few_connects_have_no_99th_percentile() {
        let mut report = sound();
        report.summary.record(&connect_from(20_001));
        let found = warnings(&report);
        assert_eq!(
            found[0].text,
            "p99 of fewer than 100 connect() calls: odd ports (1)"
        );
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn what_is_missing_is_warned_of() {
        let mut report = sound();
        report.accounting.kernel.ring_full = 1;
        assert_eq!(kinds(&report), ["lost", "incomplete"]);
        report.accounting.kernel.entered += 1;
        assert_eq!(kinds(&report), ["lost"]);
        report.accounting.recursion_misses = Some(1);
        assert_eq!(kinds(&report), ["lost", "programs_skipped"]);
    }

    #[test]
    fn what_the_budget_gave_up_is_warned_of() {
        let mut report = crate::report::overhead::tests::example();
        report.summary = Default::default();
        assert_eq!(kinds(&report), ["lost", "blind", "sampled"]);
        report.checks.mode = CheckMode::Count;
        assert_eq!(kinds(&report), ["lost", "blind", "sampled", "unwatched"]);
        report.budget = None;
        assert_eq!(
            kinds(&report),
            ["lost", "blind", "sampled"],
            "as of a recording"
        );
    }

    #[test]
    fn bursts_may_make_a_twentieth_longer() {
        let mut report = sound();
        report.summary.searches_watched = 5;
        assert_eq!(kinds(&report), [""; 0]);
        report.summary.searches_watched = 6;
        assert_eq!(kinds(&report), ["watched"]);
    }

    #[test]
    fn a_clock_that_was_set_is_told_with_its_sign() {
        let mut report = sound();
        report.clock_step_ns = Some(-1_500_000_000);
        let found = warnings(&report);
        assert_eq!(found[0].kind, "clock_step");
        assert!(found[0].text.contains(" -1.500 s"), "{}", found[0].text);
    }

    #[test]
    fn ports_that_run_out_are_told_for_some_routes_and_counted_for_all() {
        let mut report = sound();
        let mut exhaustions = crate::stats::Exhaustions::default();
        for netns in 0..5 {
            let connect = crate::connect::Connect {
                netns: Some(netns),
                scanned: Some(1_501),
                ..connect_from(20_001)
            };
            exhaustions.record(&connect);
            exhaustions.record(&connect);
        }
        report.exhausted = exhaustions.take();
        assert_eq!(kinds(&report), ["exhaustion"; 4]);
        let found = warnings(&report);
        assert_eq!(
            found[0].text,
            "ports are running out from 127.0.0.1 to 127.0.0.1:443 (network namespace 0): at least 75 % \
             of the range 20000-21999 is in use, seen by 2 connect() calls"
        );
        assert_eq!(found[3].text, "ports are running out on 2 more routes");
    }

    #[test]
    fn groups_without_room_are_told() {
        let mut groups = Groups::new(By::Pid);
        for pid in 0..=MOST_GROUPS as u32 {
            groups.record(&crate::connect::Connect {
                pid,
                ..connect_from(0)
            });
        }
        let report = of_groups(groups);
        let found = warnings(&report);
        assert!(
            found.iter().any(|warning| warning.kind == "groups_evicted"),
            "{found:?}"
        );
    }
}
