//! The sentences with which page and `top` begin: is anything wrong now?

use std::time::Duration;

use super::history::{Column, History};
use crate::{
    clock::Time,
    metrics::totals::Search,
    stats::exhaustion::Exhaustion,
    term::{
        errno,
        numbers::{count, counted, tenths, time},
    },
};

/// Share of searches with a second pass from which it is told.
const SECOND_PASSES: f64 = 0.05;

/// Share of failed calls from which they are notable, if they do not fail for lack of a port or an address.
const FAILURES: f64 = 0.01;

/// Title of a finding that calls are missing.
pub(crate) const INCOMPLETE: &str = "INCOMPLETE";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Connections fail or are slow now, or the figures are not whole.
    Wrong,
    /// Something to look at.
    Notable,
    /// Nothing to do.
    Fine,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub severity: Severity,
    /// A few words, without a full stop.
    pub title: String,
    /// Whole sentences.
    pub text: String,
}

/// Returns the findings, the worst first: at least one.
pub(crate) fn findings(history: &History) -> Vec<Finding> {
    let Some(((now, merged), latest)) = history.now().zip(history.latest()) else {
        return vec![Finding {
            severity: Severity::Fine,
            title: "Tracing has begun".to_owned(),
            text: "The first interval has not ended.".to_owned(),
        }];
    };
    let mut found: Vec<_> = [
        ports(&now),
        lost(&now, latest.adds_up),
        detached(&now),
        failed(&now),
        second_pass(&now),
        sampled(&now),
        ports_before(history, merged),
        lost_before(history, merged),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found
        .iter()
        .all(|finding| finding.severity == Severity::Fine)
    {
        found.insert(0, well(&now));
    }
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Returns a time as in "in the last 10 s".
pub(crate) fn last(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match elapsed.as_secs() {
        0..120 if seconds < 9.95 => format!("{} s", tenths(seconds)),
        0..120 => format!("{seconds:.0} s"),
        _ => format!("{:.0} min", seconds / 60.0),
    }
}

fn calls(connects: u64) -> String {
    match connects {
        1 => "1 connect() call".to_owned(),
        connects => format!("{} connect() calls", count(connects)),
    }
}

fn finding(severity: Severity, title: impl Into<String>, text: impl Into<String>) -> Finding {
    Finding {
        severity,
        title: title.into(),
        text: text.into(),
    }
}

fn ports(now: &Column) -> Option<Finding> {
    let fullest = now.routes.first()?;
    let Exhaustion { searched, evidence } = fullest;
    let route = searched.route;
    let state = match evidence.failed {
        0 => "Ports are running out",
        _ => "Ports have run out",
    };
    let title = format!("{state} from {} to {}", route.source, route.destination);
    let taken = match evidence.failed {
        0 => format!("At least {} %", evidence.percent_taken),
        _ => "All".to_owned(),
    };
    let whose = if searched.own_range {
        "the sockets\u{2019} own range"
    } else {
        "the range"
    };
    let mut text = format!(
        "{taken} of {whose} {} is in use, seen by {} in the last {}",
        evidence.range,
        calls(evidence.connects),
        last(now.elapsed),
    );
    if evidence.failed > 0 {
        text.push_str(&format!("; {} of them failed", count(evidence.failed)));
    }
    text.push('.');
    if let Some(netns) = route.netns {
        text.push_str(&format!(" Network namespace: {netns}."));
    }
    match now.routes.len() as u64 - 1 + now.more_routes {
        0 => {}
        1 => text.push_str(" One other route runs out, too."),
        more => text.push_str(&format!(" {} other routes run out, too.", count(more))),
    }
    Some(finding(Severity::Wrong, title, text))
}

fn lost(now: &Column, adds_up: bool) -> Option<Finding> {
    let text = if now.lost > 0 {
        format!(
            "{} of {} in the last {} were lost, and are in no figure.",
            count(now.lost),
            calls(now.entered),
            last(now.elapsed)
        )
    } else if now.skipped > 0 {
        format!(
            "The kernel skipped {} in the last {}: connect() calls may be missing. --attach kprobe sees all.",
            counted(now.skipped, "run of a program", "runs of programs"),
            last(now.elapsed)
        )
    } else if !adds_up {
        "The account does not add up: connect() calls may be missing.".to_owned()
    } else {
        return None;
    };
    Some(finding(Severity::Wrong, INCOMPLETE, text))
}

fn detached(now: &Column) -> Option<Finding> {
    (!now.blind.is_zero()).then(|| {
        let text = format!(
            "The probes were detached for {} s of the last {}, to keep --max-overhead: connect() calls of that time are in \
             no figure.",
            tenths(now.blind.as_secs_f64()),
            last(now.elapsed)
        );
        finding(Severity::Wrong, INCOMPLETE, text)
    })
}

fn failed(now: &Column) -> Option<Finding> {
    let all: u64 = now.failed.values().sum();
    if all == 0 {
        return None;
    }
    let errnos = now.failures();
    let names: Vec<_> = errnos
        .iter()
        .take(3)
        .map(|&(errno, failures)| format!("{} {}", errno::name(errno), count(failures)))
        .collect();
    let text = format!(
        "{} of {} in the last {} failed: {}.",
        count(all),
        calls(now.connects()),
        last(now.elapsed),
        names.join(", ")
    );
    let has_no_port = now.failed.contains_key(&libc::EADDRNOTAVAIL);
    let share = all as f64 / now.connects().max(1) as f64;
    // A host without a route for IPv6 has a few failures all the time.
    let severity = match has_no_port || share > FAILURES {
        true => Severity::Notable,
        false => Severity::Fine,
    };
    Some(finding(severity, "connect() calls fail", text))
}

fn second_pass(now: &Column) -> Option<Finding> {
    let second = now.searches_of(Search::Second);
    let all: u64 = now.searches.iter().sum();
    let share = second as f64 / all.max(1) as f64;
    (share > SECOND_PASSES).then(|| {
        let text = format!(
            "{} % of the port searches in the last {} found no free port of the first parity, and went on to the second \
             pass.",
            tenths(share * 100.0),
            last(now.elapsed)
        );
        finding(Severity::Notable, "Ports of one parity are used up", text)
    })
}

fn sampled(now: &Column) -> Option<Finding> {
    (now.unsampled > 0).then(|| {
        let text = format!(
            "{} of {} in the last {} were counted without a record, to keep --max-overhead: times are from a sample.",
            count(now.unsampled),
            calls(now.entered),
            last(now.elapsed)
        );
        finding(Severity::Notable, "The figures are from a sample", text)
    })
}

/// Tells of ports that ran out before the latest columns.
fn ports_before(history: &History, merged: usize) -> Option<Finding> {
    let columns = history.columns().rev();
    let is_over = history
        .columns()
        .rev()
        .take(merged)
        .all(|column| column.routes.is_empty());
    let column = columns
        .skip(merged)
        .find(|column| !column.routes.is_empty())?;
    let Exhaustion { searched, evidence } = column.routes.first().filter(|_| is_over)?;
    let route = searched.route;
    let text = format!(
        "From {} to {}, at least {} % of the range {} was in use.",
        route.source, route.destination, evidence.percent_taken, evidence.range
    );
    let until = Time::from(column.at).of_day();
    let title = format!("Ports were running out until {until}");
    Some(finding(Severity::Notable, title, text))
}

/// Tells of losses before the latest columns.
fn lost_before(history: &History, merged: usize) -> Option<Finding> {
    let columns = history.columns().rev().skip(merged);
    let lost: u64 = columns.map(|column| column.lost).sum();
    (lost > 0).then(|| {
        let text = format!(
            "Earlier in the last quarter of an hour, {} were lost, and are in no figure.",
            calls(lost)
        );
        finding(Severity::Notable, "The figures have gaps", text)
    })
}

fn well(now: &Column) -> Finding {
    let all = now.all_times();
    let text = match all.mean_ns() {
        None => format!("No connect() call in the last {}.", last(now.elapsed)),
        Some(mean) => format!(
            "{} in the last {}: {} on average, {} the slowest.",
            calls(all.count),
            last(now.elapsed),
            time(mean),
            time(all.max_ns as f64)
        ),
    };
    finding(Severity::Fine, "All is well", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, SourcePort},
        fixtures::connect_from,
        live::{history::tests::on_full, stage::Stage},
    };

    fn made() -> Stage {
        Stage::new(Duration::from_secs(10))
    }

    fn told(made: &Stage) -> Vec<(Severity, String)> {
        let all = findings(&made.history).into_iter();
        all.map(|one| (one.severity, format!("{}: {}", one.title, one.text)))
            .collect()
    }

    #[test]
    fn all_is_well_until_something_is_wrong() {
        let mut made = made();
        assert!(told(&made)[0].1.contains("has not ended"));
        made.add(&[]);
        assert_eq!(
            told(&made)[0].1,
            "All is well: No connect() call in the last 10 s."
        );
        made.add(&[connect_from(20_000), connect_from(20_002)]);
        let expected = "All is well: 2 connect() calls in the last 10 s: 20 \u{b5}s on average, 20 \u{b5}s the slowest.";
        assert_eq!(told(&made), [(Severity::Fine, expected.to_owned())]);
    }

    #[test]
    fn a_range_that_runs_out_comes_first_and_stays_told_when_it_is_over() {
        let mut made = made();
        let fine = [connect_from(20_000); 90];
        made.add(&[&fine[..], &[on_full(7)]].concat());
        let expected = "Ports are running out from 127.0.0.1 to 127.0.0.1:443: At least 90 % of the range 20000-21999 is in \
                        use, seen by 1 connect() call in the last 10 s. Network namespace: 7.";
        assert_eq!(told(&made), [(Severity::Wrong, expected.to_owned())]);
        let out = Connect {
            errno: libc::EADDRNOTAVAIL,
            port: SourcePort::None,
            ..on_full(7)
        };
        made.add(&[&fine[..], &[on_full(7), out, on_full(8)]].concat());
        let told_now = told(&made);
        assert!(
            told_now[0].1.starts_with(
                "Ports have run out from 127.0.0.1 to 127.0.0.1:443: All of the range 20000-21999 is in use, seen by 2 connect() \
                 calls in the last 10 s; 1 of them failed. Network namespace: 7. One \
                 other route runs out, too."
            ),
            "{told_now:?}"
        );
        assert!(
            told_now[1]
                .1
                .contains("1 of 93 connect() calls in the last 10 s failed: EADDRNOTAVAIL 1.")
        );
        made.add(&fine);
        let before = told(&made);
        assert_eq!(before.len(), 1, "{before:?}");
        assert!(
            before[0].1.starts_with("Ports were running out until "),
            "{before:?}"
        );
        assert_eq!(before[0].0, Severity::Notable);
    }

    #[test]
    fn a_few_failures_are_told_and_are_no_alarm() {
        let mut made = made();
        let unreachable = Connect {
            errno: libc::ENETUNREACH,
            port: SourcePort::None,
            ..connect_from(0)
        };
        made.add(&[&[connect_from(20_000); 99][..], &[unreachable]].concat());
        let told_now = told(&made);
        assert_eq!(told_now.len(), 2, "{told_now:?}");
        assert!(told_now[0].1.starts_with("All is well: "), "{told_now:?}");
        assert_eq!(told_now[1].0, Severity::Fine);
        made.add(&[&[connect_from(20_000); 98][..], &[unreachable]].concat());
        assert_eq!(told(&made)[0].0, Severity::Notable);
        let no_port = Connect {
            errno: libc::EADDRNOTAVAIL,
            source: None,
            ..unreachable
        };
        made.add(&[&[connect_from(20_000); 200][..], &[no_port]].concat());
        assert_eq!(told(&made)[0].0, Severity::Notable);
    }

    #[test]
    fn a_second_pass_of_one_search_in_twenty_is_told() {
        let mut made = made();
        let odd = Connect {
            scanned: None,
            range: connect_from(0).range,
            kind: connect_from(0).kind,
            source: None,
            ..connect_from(20_001)
        };
        made.add(&[&[connect_from(20_000); 19][..], &[odd]].concat());
        assert_eq!(told(&made)[0].0, Severity::Fine, "{:?}", told(&made));
        made.add(&[&[connect_from(20_000); 18][..], &[odd]].concat());
        assert!(
            told(&made)[0]
                .1
                .starts_with("Ports of one parity are used up: 5.3 % "),
            "{:?}",
            told(&made)
        );
    }

    #[test]
    fn what_is_missing_is_told_now_and_for_a_quarter_of_an_hour() {
        let mut made = made();
        made.side.accounting.kernel.entered = 5;
        made.side.accounting.kernel.ring_full = 5;
        made.add(&[connect_from(20_000)]);
        let expected =
            "INCOMPLETE: 5 of 6 connect() calls in the last 10 s were lost, and are in no figure.";
        assert_eq!(told(&made), [(Severity::Wrong, expected.to_owned())]);
        made.add(&[]);
        assert!(
            told(&made)[0].1.contains("5 connect() calls were lost"),
            "{:?}",
            told(&made)
        );
        for _ in 0..90 {
            made.add(&[]);
        }
        assert_eq!(told(&made)[0].0, Severity::Fine);
        made.side.accounting.kernel.entered += 1;
        made.add(&[]);
        assert!(
            told(&made)[0].1.contains("does not add up"),
            "{:?}",
            told(&made)
        );
    }

    #[test]
    fn what_the_overhead_limit_gave_up_is_told() {
        let mut made = made();
        made.side.accounting.kernel.entered = 63;
        made.side.accounting.kernel.unsampled = 63;
        made.side.accounting.blind = Duration::from_millis(2_500);
        made.add(&[connect_from(20_000)]);
        let told = told(&made);
        assert!(
            told[0]
                .1
                .starts_with("INCOMPLETE: The probes were detached for 2.5 s of the last 10 s"),
            "{told:?}"
        );
        assert!(
            told[1]
                .1
                .contains(": 63 of 64 connect() calls in the last 10 s were counted without"),
            "{told:?}"
        );
    }

    #[test]
    fn a_length_of_time_is_in_seconds_or_minutes() {
        let words = [0.5, 1.04, 9.96, 60.0, 119.9, 900.0].map(|s| last(Duration::from_secs_f64(s)));
        assert_eq!(words, ["0.5 s", "1 s", "10 s", "60 s", "120 s", "15 min"]);
    }
}
