//! A mitigation: its section in the text of a report, and its object in JSON.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{json::Times, table::rows};
use crate::{
    stats::{
        Group,
        arms::{Arm, Outcome, SECONDS_FOR_A_VERDICT, Verdict},
        mitigation::Mitigation,
        report::Report,
    },
    term::{
        errno,
        numbers::{counted, plain, wrapped},
        paint::Paint,
    },
};

/// Writes the section, if there is a mitigation.
pub(super) fn write(text: &mut String, paint: Paint, report: &Report) -> fmt::Result {
    let Some(mitigation) = &report.mitigation else {
        return Ok(());
    };
    text.push('\n');
    wrapped(text, &paint.title("mitigation"), "  ", &mitigation.settings)?;
    wrapped(text, "  decisions:", "    ", &decisions(mitigation))?;
    if mitigation.decisions.acted() > 0 {
        wrapped(text, "  cost:", "    ", &cost(mitigation))?;
    }
    let routes = &mitigation.routes;
    let mut words = format!(
        "{}, active on {}",
        counted(routes.known, "known", "known"),
        routes.acting
    );
    if routes.ambiguous > 0 {
        let _ = write!(
            words,
            "; never on {} whose source address changes",
            routes.ambiguous
        );
    }
    if routes.dropped > 0 {
        let _ = write!(
            words,
            "; {} on routes for which there was no room",
            counted(routes.dropped, "connection", "connections")
        );
    }
    wrapped(text, "  routes:", "    ", &words)?;
    if let Some(verdict) = &mitigation.verdict {
        wrapped(text, "  verdict:", "    ", &sentence(verdict))?;
    }
    let arms = Arm::ALL.into_iter().zip(&mitigation.arms);
    let groups: Vec<(String, &Group)> = arms
        .clone()
        .map(|(arm, calls)| (arm.name().to_owned(), &calls.succeeded))
        .collect();
    rows(text, paint, "connect(), us", &groups, |group| {
        &group.connect
    })?;
    for (arm, calls) in arms.filter(|(_, calls)| calls.failed > 0) {
        writeln!(
            text,
            "  {}: {} failed, {} of them for lack of a port",
            arm.name(),
            calls.failed,
            calls.without_port
        )?;
    }
    Ok(())
}

/// Returns the decisions as a sum.
fn decisions(mitigation: &Mitigation) -> String {
    let made = &mitigation.decisions;
    let parts = [
        (made.applied, "chosen here"),
        (made.exhausted, "left to the kernel after too many tries"),
        (made.refused, "refused by the kernel"),
        (made.other_share, "of the other share"),
        (made.idle, "on routes with enough ports"),
        (made.no_route, "on unknown routes"),
        (made.bound, "bound by the program"),
        (made.own_range, "with a range of the program"),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let mut words = counted(made.calls, "connect() call", "connect() calls");
    if !parts.is_empty() {
        let _ = write!(words, " = {}", parts.join(" + "));
    }
    if made.refused > 0 {
        let number = i32::try_from(made.last_errno).unwrap_or(0);
        let _ = write!(words, "; last refused with {}", errno::name(number));
    }
    // A call that is being decided is counted at its start only.
    let missing = made.calls.abs_diff(made.decided());
    if missing > 0 {
        let _ = write!(words, "; {missing} undecided");
    }
    words
}

/// Returns the cost of the connections for which the mitigation acted.
fn cost(mitigation: &Mitigation) -> String {
    let made = &mitigation.decisions;
    let acted = made.acted() as f64;
    let mut words = format!(
        "{} us a call before connect() begins",
        plain(made.acting_ns as f64 / acted / 1e3)
    );
    if made.tested > 0 {
        let _ = write!(
            words,
            "; {} ports tested a call, {} % taken",
            plain(made.tested as f64 / acted),
            (made.taken * 100) / made.tested
        );
    }
    if made.busy > 0 {
        let _ = write!(words, "; {} busy with other sockets", made.busy);
    }
    if made.reused > 0 {
        let _ = write!(words, "; {} chosen in TIME_WAIT", made.reused);
    }
    if made.reserved > 0 {
        let _ = write!(words, "; {} reserved ports skipped", made.reserved);
    }
    words
}

/// Returns the verdict as a sentence.
fn sentence(verdict: &Verdict) -> String {
    let basis = format!(
        "{} and {} calls in {}",
        verdict.calls[0],
        verdict.calls[1],
        counted(verdict.seconds, "second", "seconds")
    );
    let Some(ratio) = verdict.ratio else {
        return format!(
            "none yet, from {basis} with five calls of each arm: {SECONDS_FOR_A_VERDICT} seconds are needed"
        );
    };
    let outcome = match verdict.outcome() {
        Outcome::Faster => "mitigated calls are faster",
        Outcome::Slower => "mitigated calls are slower",
        Outcome::Noise | Outcome::TooLittle => "the difference may be noise",
    };
    format!(
        "{outcome}: {} of the time of unmitigated calls, {} to {} with 99 % confidence (paired t-test over {basis})",
        percent(ratio.mean),
        percent(ratio.low),
        percent(ratio.high)
    )
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// The mitigation in JSON.
#[derive(Serialize)]
pub(super) struct Object<'a> {
    settings: &'a str,
    calls: u64,
    applied: u64,
    reused: u64,
    exhausted: u64,
    refused: u64,
    last_errno: Option<String>,
    other_share: u64,
    idle: u64,
    no_route: u64,
    bound: u64,
    own_range: u64,
    not_tcp: u64,
    ports_tested: u64,
    ports_taken: u64,
    ports_busy: u64,
    ports_reserved: u64,
    acting_ns: u64,
    routes_known: u64,
    routes_acting: u64,
    routes_ambiguous: u64,
    connects_without_room: u64,
    arms: Vec<ArmObject>,
    verdict: Option<VerdictObject>,
}

#[derive(Serialize)]
struct ArmObject {
    arm: &'static str,
    failed: u64,
    failed_without_port: u64,
    connect: Times,
    search: Times,
}

#[derive(Serialize)]
struct VerdictObject {
    outcome: &'static str,
    seconds: u64,
    mitigated_calls: u64,
    unmitigated_calls: u64,
    ratio: Option<f64>,
    ratio_low: Option<f64>,
    ratio_high: Option<f64>,
}

impl<'a> Object<'a> {
    pub(super) fn of(mitigation: &'a Mitigation) -> Self {
        let made = &mitigation.decisions;
        let routes = &mitigation.routes;
        let last_errno = i32::try_from(made.last_errno).unwrap_or(0);
        Self {
            settings: &mitigation.settings,
            calls: made.calls,
            applied: made.applied,
            reused: made.reused,
            exhausted: made.exhausted,
            refused: made.refused,
            last_errno: (last_errno != 0).then(|| errno::name(last_errno)),
            other_share: made.other_share,
            idle: made.idle,
            no_route: made.no_route,
            bound: made.bound,
            own_range: made.own_range,
            not_tcp: made.not_tcp,
            ports_tested: made.tested,
            ports_taken: made.taken,
            ports_busy: made.busy,
            ports_reserved: made.reserved,
            acting_ns: made.acting_ns,
            routes_known: routes.known,
            routes_acting: routes.acting,
            routes_ambiguous: routes.ambiguous,
            connects_without_room: routes.dropped,
            arms: Arm::ALL
                .into_iter()
                .zip(&mitigation.arms)
                .map(|(arm, calls)| ArmObject {
                    arm: arm.name(),
                    failed: calls.failed,
                    failed_without_port: calls.without_port,
                    connect: Times::of(&calls.succeeded.connect),
                    search: Times::of(&calls.succeeded.search),
                })
                .collect(),
            verdict: mitigation.verdict.as_ref().map(VerdictObject::of),
        }
    }
}

impl VerdictObject {
    fn of(verdict: &Verdict) -> Self {
        Self {
            outcome: verdict.outcome().name(),
            seconds: verdict.seconds,
            mitigated_calls: verdict.calls[0],
            unmitigated_calls: verdict.calls[1],
            ratio: verdict.ratio.map(|ratio| ratio.mean),
            ratio_low: verdict.ratio.map(|ratio| ratio.low),
            ratio_high: verdict.ratio.map(|ratio| ratio.high),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use connect_trace_common::MitigationCounters;

    use super::*;
    use crate::{
        fixtures::connect_from,
        report::{example::parity, text},
        stats::{
            arms::{Arms, Ratio},
            mitigation::RouteNumbers,
        },
    };

    /// Returns a report with a mitigation that compares.
    pub(crate) fn example() -> Report {
        let mut arms = Arms::default();
        for port in 0..10 {
            arms.record(Arm::Mitigated, &connect_from(20_001 + port), 0.0);
            let mut slow = connect_from(20_001);
            slow.connect_ns = 2_000_000;
            slow.errno = if port == 9 { libc::EADDRNOTAVAIL } else { 0 };
            arms.record(Arm::Unmitigated, &slow, 0.0);
        }
        Report {
            mitigation: Some(Mitigation {
                settings: "select-test-repeat in /x, on every route".to_owned(),
                decisions: MitigationCounters {
                    calls: 25,
                    applied: 8,
                    exhausted: 1,
                    refused: 1,
                    last_errno: libc::EADDRNOTAVAIL as u64,
                    other_share: 10,
                    idle: 1,
                    no_route: 2,
                    bound: 1,
                    own_range: 1,
                    tested: 20,
                    taken: 11,
                    busy: 2,
                    reused: 1,
                    reserved: 3,
                    acting_ns: 12_340,
                    ..MitigationCounters::default()
                },
                routes: RouteNumbers {
                    known: 4,
                    acting: 1,
                    ambiguous: 1,
                    dropped: 2,
                },
                arms: arms.take(),
                verdict: Some(Verdict {
                    seconds: 60,
                    calls: [600, 700],
                    ratio: Some(Ratio {
                        low: 0.01,
                        mean: 0.0123,
                        high: 0.02,
                    }),
                }),
            }),
            ..parity()
        }
    }

    fn section(report: &Report) -> String {
        let mut out = Vec::new();
        text::write(&mut out, report, Paint(false)).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let (_, section) = text.split_once("\nmitigation ").unwrap();
        section.to_owned()
    }

    #[test]
    fn decisions_costs_and_arms_are_told() {
        let section = section(&example());
        let expected = "select-test-repeat in /x, on every route
  decisions: 25 connect() calls = 8 chosen here + 1 left to the kernel after too
    many tries + 1 refused by the kernel + 10 of the other share + 1 on routes
    with enough ports + 2 on unknown routes + 1 bound by the program + 1 with a
    range of the program; last refused with EADDRNOTAVAIL
  cost: 1.234 us a call before connect() begins; 2 ports tested a call, 55 %
    taken; 2 busy with other sockets; 1 chosen in TIME_WAIT; 3 reserved ports
    skipped
  routes: 4 known, active on 1; never on 1 whose source address changes; 2
    connections on routes for which there was no room
  verdict: mitigated calls are faster: 1.2 % of the time of unmitigated calls,
    1.0 % to 2.0 % with 99 % confidence (paired t-test over 600 and 700 calls in
    60 seconds)
";
        assert!(section.starts_with(expected), "{section}");
        assert!(
            section.contains("\n  unmitigated: 1 failed, 1 of them for lack of a port\n"),
            "{section}"
        );
    }

    #[test]
    fn too_little_is_no_verdict_and_a_missing_decision_is_told() {
        let mut report = example();
        let mitigation = report.mitigation.as_mut().unwrap();
        mitigation.decisions.calls = 26;
        mitigation.verdict = Some(Verdict {
            seconds: 1,
            calls: [5, 6],
            ratio: None,
        });
        let section = section(&report).replace("\n   ", "");
        assert!(section.contains("; 1 undecided"), "{section}");
        assert!(
            section.contains("verdict: none yet, from 5 and 6 calls in 1 second"),
            "{section}"
        );
    }
}
