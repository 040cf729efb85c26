//! The parts of connect() calls as tables, with the causes of their time.

use std::fmt::{self, Write as _};

use super::table::rows;
use crate::connect::{Cause, Wait};
use crate::stats::{Ends, Latency, PhaseTimes, Summary, ends::WaitTimes};
use crate::term::{numbers::wrapped, paint::Paint};

/// Writes the phases and the causes, if they were measured.
pub(super) fn write(
    text: &mut String,
    paint: Paint,
    summary: &Summary,
    ends: Option<&Ends>,
) -> fmt::Result {
    let phases = &summary.phases;
    if !phases.any() {
        return Ok(());
    }
    let rows_of = [
        ("before search", &phases.before_search),
        ("port search", &phases.search),
        ("after search", &phases.after_search),
    ];
    let rows_of = rows_of.map(|(name, latency)| (name.to_owned(), latency));
    let itself: fn(&Latency) -> &Latency = |latency| latency;
    rows(text, paint, "phases, us", &rows_of, itself)?;
    causes(text, paint, phases, ends)?;
    let kinds = match phases.lock_waits {
        Some(waits) => format!(
            "bhash {}, bhash2 {}, ehash {}, other {} ms; a lower bound",
            milliseconds(waits.bhash_ns),
            milliseconds(waits.bhash2_ns),
            milliseconds(waits.ehash_ns),
            milliseconds(waits.other.total_ns()),
        ),
        None => "not seen, part of the other causes: the kernel lacks the tracepoint \
                 lock:contention_begin (since 5.19)"
            .to_owned(),
    };
    wrapped(text, "lock waits:", "  ", &kinds)?;
    let unknown = unknown(summary);
    if unknown > 0 {
        writeln!(text, "calls of unknown phases: {unknown}")?;
    }
    Ok(())
}

/// Returns the number of calls without phases: the map of the programs had no place for them, or a return was missed.
/// Calls below `--min-latency` are not among them.
pub(super) fn unknown(summary: &Summary) -> u64 {
    let known = summary.fast + summary.phases.all.connects;
    summary.connects.saturating_sub(known)
}

/// Writes a row for each cause, of connect() and of the handshake if handshakes were followed: its time in all calls, its
/// time in slow ones, and the number of slow ones of which it took the most.
fn causes(
    text: &mut String,
    paint: Paint,
    phases: &PhaseTimes,
    ends: Option<&Ends>,
) -> fmt::Result {
    let title = paint.title(&format!("{:<28}", "where the time went"));
    writeln!(
        text,
        "\n{title} {:>10} {:>7} {:>11} {:>7} {:>10}",
        "all ms", "share", "1+ ms calls", "share", "mainly"
    )?;
    let of_connect = Cause::ALL.map(|cause| Row {
        name: cause.in_words(),
        all_ns: phases.all.total_ns[cause.index()],
        slow_ns: phases.slow.total_ns[cause.index()],
        mainly: phases.slow.mainly[cause.index()],
    });
    let of_handshake = ends.into_iter().flat_map(|ends| {
        Wait::ALL.map(|wait| {
            let times = ends.waits[wait.index()];
            Row {
                name: wait.in_words(),
                all_ns: times.total_ns,
                slow_ns: times.slow_ns,
                mainly: times.slow,
            }
        })
    });
    let rows: Vec<_> = of_connect.into_iter().chain(of_handshake).collect();
    let sum = |of: fn(&Row) -> u64| rows.iter().map(|row| of(row) as f64).sum::<f64>();
    let [all_ns, slow_ns] = [sum(|row| row.all_ns), sum(|row| row.slow_ns)];
    for row in &rows {
        writeln!(
            text,
            "  {:<26} {:>10} {:>7} {:>11} {:>7} {:>10}",
            row.name,
            milliseconds(row.all_ns),
            share(row.all_ns, all_ns),
            milliseconds(row.slow_ns),
            share(row.slow_ns, slow_ns),
            row.mainly,
        )?;
    }
    let (calls, slow) = (phases.all.connects, phases.slow.connects);
    writeln!(
        text,
        "  {:<26} {calls:>10} {:>7} {slow:>11}",
        "connect() calls", ""
    )?;
    if let Some(ends) = ends {
        let count = |of: fn(&WaitTimes) -> u64| ends.waits.iter().map(of).sum::<u64>();
        let (ended, slow) = (count(|times| times.count), count(|times| times.slow));
        writeln!(
            text,
            "  {:<26} {ended:>10} {:>7} {slow:>11}",
            "handshakes", ""
        )?;
    }
    Ok(())
}

/// A row of the causes.
struct Row {
    name: &'static str,
    all_ns: u64,
    slow_ns: u64,
    mainly: u64,
}

/// Returns the share of a sum, as text.
fn share(ns: u64, sum_ns: f64) -> String {
    if sum_ns > 0.0 {
        return format!("{:.1}%", ns as f64 / sum_ns * 100.0);
    }
    "-".to_owned()
}

fn milliseconds(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, ConnectionEvent, Fate, Phases},
        fixtures::{connect_from, connection_event, phases},
    };

    fn written(connects: &[Connect]) -> String {
        written_with(connects, None)
    }

    fn written_with(connects: &[Connect], ends: Option<&Ends>) -> String {
        let mut summary = Summary::default();
        for connect in connects {
            summary.record(connect);
        }
        let mut text = String::new();
        write(&mut text, Paint(false), &summary, ends).unwrap();
        for line in text.lines() {
            assert!(line.len() <= 80, "{line}");
            assert_eq!(line, line.trim_end());
        }
        text
    }

    #[test]
    fn a_trace_without_phases_has_no_table() {
        assert_eq!(written(&[connect_from(20_000)]), "");
    }

    #[test]
    fn the_tables_are_this_text() {
        let slow = Connect {
            connect_ns: 5_020_000,
            search_ns: Some(5_005_000),
            phases: Some(phases()),
            ..connect_from(20_001)
        };
        let text = written(&[slow, connect_from(20_000)]);
        let expected = include_str!("phases_example.txt");
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn handshakes_have_their_share() {
        let mut ends = Ends::default();
        let lost = ConnectionEvent {
            handshake_ns: Some(5_000_000),
            syn_retransmits: Some(1),
            ..connection_event(Fate::Established)
        };
        ends.record(&ConnectionEvent {
            end_ns: None,
            ..lost
        });
        let slow = Connect {
            connect_ns: 5_000_000,
            search_ns: Some(4_990_000),
            phases: Some(phases()),
            ..connect_from(20_001)
        };
        let text = written_with(&[slow], Some(&ends));
        let row = |name: &str| {
            let line = text.lines().find(|line| line.contains(name));
            let line = line.unwrap_or_else(|| panic!("{name}: {text}"));
            line.split_whitespace()
                .rev()
                .take(5)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(row("SYN again"), ["1", "50.0%", "5.0", "50.0%", "5.0"]);
        assert_eq!(row("peer: refused")[3], "0.0%");
        assert_eq!(row("ports: ")[0], "1");
        assert!(text.contains("  handshakes "), "{text}");
    }

    #[test]
    fn lock_waits_that_are_not_seen_are_said_to_be_so() {
        let text = written(&[Connect {
            phases: Some(Phases {
                lock_waits: None,
                ..phases()
            }),
            ..connect_from(20_000)
        }]);
        assert!(text.contains("lock waits: not seen"), "{text}");
    }
}
