//! The parts of connect() calls as tables, with the causes of their time.

use std::fmt::{self, Write as _};

use super::table::rows;
use crate::connect::Cause;
use crate::stats::{ByCause, Latency, PhaseTimes, Summary};
use crate::term::{numbers::wrapped, paint::Paint};

/// Writes the phases and the causes, if they were measured.
pub(super) fn write(text: &mut String, paint: Paint, summary: &Summary) -> fmt::Result {
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
    causes(text, paint, phases)?;
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

/// Writes a row for each cause: its time in all calls, its time in slow calls, and the number of slow calls of which it
/// took the most.
fn causes(text: &mut String, paint: Paint, phases: &PhaseTimes) -> fmt::Result {
    let title = paint.title(&format!("{:<28}", "where the time went"));
    writeln!(
        text,
        "\n{title} {:>10} {:>7} {:>11} {:>7} {:>10}",
        "all ms", "share", "1+ ms calls", "share", "mainly"
    )?;
    for cause in Cause::ALL {
        let [all, slow] = [&phases.all, &phases.slow].map(|part| Part::of(part, cause));
        writeln!(
            text,
            "  {:<26} {:>10} {:>7} {:>11} {:>7} {:>10}",
            cause.in_words(),
            all.time,
            all.share,
            slow.time,
            slow.share,
            phases.slow.mainly[cause.index()],
        )?;
    }
    writeln!(
        text,
        "  {:<26} {:>10} {:>7} {:>11} {:>7} {:>10}",
        "connect() calls", phases.all.connects, "", phases.slow.connects, "", ""
    )
    .map(|()| trim_line(text))
}

/// Removes blanks at the end of the last line.
fn trim_line(text: &mut String) {
    text.truncate(text.trim_end().len());
    text.push('\n');
}

/// The part of a cause, as text.
struct Part {
    time: String,
    share: String,
}

impl Part {
    fn of(times: &ByCause, cause: Cause) -> Self {
        Self {
            time: milliseconds(times.total_ns[cause.index()]),
            share: times
                .share(cause)
                .map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0)),
        }
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, Phases},
        fixtures::{connect_from, phases},
    };

    fn written(connects: &[Connect]) -> String {
        let mut summary = Summary::default();
        for connect in connects {
            summary.record(connect);
        }
        let mut text = String::new();
        write(&mut text, Paint(false), &summary).unwrap();
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
