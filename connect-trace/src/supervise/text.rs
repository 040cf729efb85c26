//! The results of supervision as text of at most 80 columns.

use std::fmt::{self, Write as _};

use super::{
    against::{Comparison, Row, Sample},
    counts::Counted,
    strategy::Strategy,
};
use crate::{
    kernel,
    term::{
        numbers::{count, counted as with_noun, microseconds, wrapped},
        paint::Paint,
    },
};

/// Width of the column with the names of the strategies.
const NAME: usize = 15;

/// A column: its title, its value for a run, and the format of the value.
type Column = (&'static str, fn(&Sample) -> Option<f64>, fn(f64) -> String);

const COLUMNS: [Column; 7] = [
    ("conns", |run| Some(run.made.count() as f64), whole),
    ("failed", |run| Some(run.made.failed as f64), whole),
    (
        "1st odd",
        |run| run.made.before_odd.map(|count| count as f64),
        whole,
    ),
    ("even us", |run| run.made.even.get(), microseconds),
    ("odd us", |run| run.made.odd.get(), microseconds),
    (
        "scanned",
        |run| run.made.scanned.get(),
        |ports| format!("{ports:.1}"),
    ),
    (
        "total s",
        |run| Some(run.took.as_secs_f64()),
        |s| format!("{s:.2}"),
    ),
];

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// Returns the counts of a run.
pub(super) fn run(strategy: Strategy, counted: &Counted) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = counts(&mut text, &strategy.to_string(), counted);
    for note in notes(counted) {
        let _ = wrapped(&mut text, "note:", "  ", &note);
    }
    text
}

/// Returns the table of a comparison.
pub(super) fn comparison(comparison: &Comparison, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = sections(&mut text, comparison, paint);
    text
}

fn sections(text: &mut String, comparison: &Comparison, paint: Paint) -> fmt::Result {
    let range = comparison.range.map(|range| format!("ports {range}, "));
    let words = format!(
        "{}{}, Linux {}, measured {}",
        range.unwrap_or_default(),
        with_noun(
            comparison.repeats.into(),
            "run of each strategy",
            "runs of each strategy"
        ),
        kernel::release(),
        comparison.how,
    );
    wrapped(text, "try:", "  ", &words)?;
    table(text, comparison, paint)?;
    let rows = &comparison.rows;
    // Nothing is set for the default, even if it is measured by a supervisor.
    for row in rows.iter().filter(|row| row.strategy != Strategy::Default) {
        let last = row.runs.last().and_then(|run| run.counted.as_ref());
        let name = match comparison.repeats {
            1 => row.strategy.to_string(),
            _ => format!("{}, last run", row.strategy),
        };
        if let Some(counted) = last {
            counts(text, &name, counted)?;
        }
    }
    if let Some((first, others)) = rows.split_first() {
        for row in others {
            wrapped(text, "-", "  ", &difference(first, row))?;
        }
    }
    let mut all_notes = Vec::new();
    for counted in rows
        .iter()
        .flat_map(|row| &row.runs)
        .filter_map(|run| run.counted.as_ref())
    {
        for note in notes(counted) {
            if !all_notes.contains(&note) {
                all_notes.push(note);
            }
        }
    }
    for note in all_notes {
        wrapped(text, "note:", "  ", &note)?;
    }
    for row in rows {
        for run in row.runs.iter().filter(|run| !run.status.success()) {
            let words = format!("{}, run {}: {}", row.strategy, run.repeat, run.status);
            wrapped(text, &paint.warning("warning:"), "  ", &words)?;
        }
    }
    for warning in &comparison.warnings {
        wrapped(text, &paint.warning("warning:"), "  ", warning)?;
    }
    Ok(())
}

fn table(text: &mut String, comparison: &Comparison, paint: Paint) -> fmt::Result {
    let title = format!("{:<NAME$}", "strategy");
    write!(text, "\n{}", paint.title(&title))?;
    for (title, ..) in COLUMNS {
        write!(text, " {title:>7}")?;
    }
    writeln!(text, " {:>8}", "price us")?;
    for row in &comparison.rows {
        write!(text, "{:<NAME$}", row.strategy.to_string())?;
        for (_, of, format) in COLUMNS {
            let value = mean(row, of).map_or_else(|| "-".to_owned(), format);
            write!(text, " {value:>7}")?;
        }
        let price = row.price.map(|price| microseconds(price.ns()));
        writeln!(text, " {:>8}", price.unwrap_or_else(|| "-".to_owned()))?;
    }
    let words = "means of the runs; 1st odd: connections before the first odd port; price: added to a connect() by the \
                 supervision, of calls that are refused at once, medians";
    wrapped(text, "", " ", words)?;
    text.push('\n');
    Ok(())
}

/// Returns the mean over the runs that have a value.
fn mean(row: &Row, of: fn(&Sample) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = row.runs.iter().filter_map(of).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Returns the difference that a strategy makes for the program.
fn difference(first: &Row, row: &Row) -> String {
    let odd = |row| mean(row, |run| run.made.odd.get());
    let total = |row| mean(row, |run| Some(run.took.as_secs_f64())).unwrap_or_default();
    let mut words = format!("{} instead of {}:", row.strategy, first.strategy);
    if let (Some(before), Some(after)) = (odd(first), odd(row)) {
        let _ = write!(
            words,
            " a connection from an odd port takes {} us instead of {} us,",
            microseconds(after),
            microseconds(before)
        );
    }
    let (before, after) = (total(first), total(row));
    let _ = write!(
        words,
        " the command {after:.2} s instead of {before:.2} s ({:+.0} %)",
        (after / before - 1.0) * 100.0
    );
    words
}

fn counts(text: &mut String, name: &str, counted: &Counted) -> fmt::Result {
    let mut words = vec![with_noun(
        counted.set,
        "connect() call set",
        "connect() calls set",
    )];
    if counted.retries > 0 {
        words.push(with_noun(counted.retries, "retry", "retries"));
    }
    if counted.failed > 0 {
        words.push(format!("{} failed", count(counted.failed)));
    }
    let mut left = format!("{} left alone", count(counted.left_alone()));
    let of_each: Vec<String> = counted
        .reasons()
        .filter(|(.., number)| *number > 0)
        .map(|(_, words, number)| format!("{} {words}", count(number)))
        .collect();
    if !of_each.is_empty() {
        write!(left, " ({})", of_each.join(", "))?;
    }
    words.push(left);
    if let Some(mean) = counted.mean_ns() {
        words.push(format!(
            "{} us a call in the supervisor and {} us at most",
            microseconds(mean),
            microseconds(counted.longest_ns as f64)
        ));
    }
    wrapped(text, &format!("{name}:"), "  ", &words.join(", "))
}

/// Returns notes on connections that a supervisor does not see.
fn notes(counted: &Counted) -> Vec<String> {
    let mut notes = Vec::new();
    if counted.io_urings > 0 {
        notes.push(format!(
            "the command has asked for {}: connections that are made by io_uring are not seen by seccomp, and are as \
             without connect-trace",
            with_noun(counted.io_urings, "io_uring", "io_urings")
        ));
    }
    if counted.filtered > 0 {
        notes.push(format!(
            "{} of the command with seccomp filters of their own: what these forbid stays forbidden and is not seen",
            with_noun(counted.filtered, "process", "processes")
        ));
    }
    notes
}
