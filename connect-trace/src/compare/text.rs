//! A comparison as text of at most 80 columns.

use std::fmt::{self, Write as _};

use super::{Comparison, Sample, StrategyResult, advice, how};
use crate::{
    load::{occupancy::Step, strategy::Strategy},
    term::{
        numbers::{counted, microseconds, wrapped},
        paint::Paint,
    },
};

/// Width of the column with the names of the strategies.
const NAME: usize = 19;

/// A column: its title, its value for a run, and the format of the value.
type Column = (&'static str, fn(&Sample) -> Option<f64>, fn(f64) -> String);

/// Columns that every comparison has.
const COLUMNS: [Column; 6] = [
    ("errors", |run| Some(run.errors as f64), whole),
    ("total s", |run| Some(run.total_s), |s| format!("{s:.2}")),
    ("conn/s", |run| Some(run.per_second), whole),
    ("even us", |run| run.even_ns, microseconds),
    ("odd us", |run| run.odd_ns, microseconds),
    ("p99 us", |run| run.p99_ns, microseconds),
];

/// The column that a trace adds.
const SCANNED: Column = ("scanned", |run| run.scanned, |ports| format!("{ports:.1}"));

/// Returns the comparison as text.
#[must_use]
pub(super) fn render(comparison: &Comparison, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = sections(&mut text, comparison, paint);
    text
}

fn sections(text: &mut String, comparison: &Comparison, paint: Paint) -> fmt::Result {
    head(text, comparison)?;
    table(text, comparison, paint)?;
    curve(text, comparison, paint)?;
    let mut words = advice::words(comparison).into_iter();
    let first = words.next().unwrap_or_default();
    text.push('\n');
    wrapped(text, &paint.title("recommendation:"), "  ", &first)?;
    for more in words {
        wrapped(text, "-", "  ", &more)?;
    }
    instructions(text, comparison, paint)?;
    let mut warnings: Vec<&String> = Vec::new();
    for row in &comparison.rows {
        for warning in row.samples.iter().flat_map(|run| &run.warnings) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    for (number, warning) in warnings.into_iter().enumerate() {
        if number == 0 {
            text.push('\n');
        }
        wrapped(text, &paint.warning("warning:"), "  ", warning)?;
    }
    Ok(())
}

/// Writes how the recommended strategy is used.
fn instructions(text: &mut String, comparison: &Comparison, paint: Paint) -> fmt::Result {
    if let Some(language) = comparison.language {
        let name = language.name();
        return match how::lines(comparison, language) {
            Some((strategy, lines)) => {
                write!(
                    text,
                    "\n{}\n\n{lines}",
                    paint.title(&format!("{strategy} with {name}:"))
                )
            }
            None => {
                let words = format!(
                    "no lines are known for {name} and any of the strategies that were run and fail seldom: \
                     docs/how-to.md has all that are known"
                );
                text.push('\n');
                wrapped(text, &paint.title("how:"), "  ", &words)
            }
        };
    }
    let best = advice::best(comparison).map(|row| row.strategy);
    let Some(calls) = best.and_then(|strategy| how::calls(strategy, comparison.range)) else {
        return Ok(());
    };
    text.push('\n');
    let words = format!("{calls}. --how LANGUAGE prints the lines; docs/how-to.md has them all.");
    wrapped(text, &paint.title("how:"), "  ", &words)
}

fn head(text: &mut String, comparison: &Comparison) -> fmt::Result {
    let words = format!(
        "{} connections, {} {}, ports {}, {}, {}, seed {}, Linux {}, measured {}",
        comparison.connections,
        comparison.protocol,
        if comparison.v6 { "IPv6" } else { "IPv4" },
        comparison.range,
        counted(comparison.threads.into(), "thread", "threads"),
        counted(
            comparison.repeats.into(),
            "run of each strategy",
            "runs of each strategy"
        ),
        comparison.seed,
        comparison.kernel,
        comparison.how,
    );
    wrapped(text, "compare:", "  ", &words)
}

/// Writes a line for each strategy, and below it the spread of the repeats.
fn table(text: &mut String, comparison: &Comparison, paint: Paint) -> fmt::Result {
    let is_scanned = |row: &StrategyResult| row.samples.iter().any(|run| run.scanned.is_some());
    let scanned = comparison.rows.iter().any(is_scanned).then_some(SCANNED);
    let columns: Vec<Column> = COLUMNS.into_iter().chain(scanned).collect();
    // The trace's column leaves less width for the others.
    let width = if scanned.is_some() { 8 } else { 9 };
    let title = format!("{:<NAME$}", "strategy");
    write!(text, "\n{}", paint.title(&title))?;
    for (title, ..) in &columns {
        write!(text, " {title:>width$}", width = width - 1)?;
    }
    text.push('\n');
    for row in &comparison.rows {
        let spreads: Vec<_> = columns.iter().map(|&(_, of, _)| row.spread(of)).collect();
        line(
            text,
            &row.strategy.to_string(),
            width,
            |index| {
                spreads[index]
                    .map_or_else(|| "-".to_owned(), |spread| columns[index].2(spread.mean))
            },
            columns.len(),
        )?;
        if row.samples.len() > 1 {
            line(
                text,
                "  +-",
                width,
                |index| {
                    spreads[index]
                        .map_or_else(|| "-".to_owned(), |spread| columns[index].2(spread.half()))
                },
                columns.len(),
            )?;
        }
    }
    let mut words = "over the runs".to_owned();
    if comparison.repeats > 1 {
        words.push_str("; +- is half the distance between the lowest and the highest");
    }
    words.push_str(". Times cover connect() and everything that the strategy does before it.");
    if scanned.is_some() {
        words.push_str(" scanned: candidate ports for a connect().");
    }
    wrapped(text, "Means", "", &words)
}

fn line(
    text: &mut String,
    name: &str,
    width: usize,
    cell: impl Fn(usize) -> String,
    cells: usize,
) -> fmt::Result {
    write!(text, "{name:<NAME$}")?;
    for index in 0..cells {
        write!(text, " {:>width$}", cell(index), width = width - 1)?;
    }
    text.push('\n');
    Ok(())
}

/// Writes the mean time by the share of the range in use, in tenths.
fn curve(text: &mut String, comparison: &Comparison, paint: Paint) -> fmt::Result {
    const TENTHS: usize = 10;
    let title = format!("{:<NAME$}", "mean us, in use to");
    write!(text, "\n{}", paint.title(&title))?;
    for tenth in 1..=TENTHS {
        write!(text, " {:>5}", format!("{tenth}0%"))?;
    }
    text.push('\n');
    for row in &comparison.rows {
        let is_default = row.strategy == Strategy::Default;
        let pairs = row.curve.pairs();
        write!(text, "{:<NAME$}", row.strategy.to_string())?;
        let mut cells = String::new();
        for tenth in 0..TENTHS {
            let mean = pairs.get(tenth).and_then(Step::mean_ns);
            write!(cells, " {:>5}", mean.map_or_else(|| "-".to_owned(), short))?;
        }
        writeln!(text, "{cells}")?;
        let first_pass = row.samples.iter().filter_map(|run| run.first_pass).min();
        if let Some(number) = first_pass.filter(|_| is_default) {
            writeln!(
                text,
                "  its first pass was exhausted after {number} of {} ports",
                comparison.range.ports()
            )?;
        }
    }
    Ok(())
}

/// Returns microseconds in five columns.
fn short(ns: f64) -> String {
    let us = ns / 1e3;
    match us {
        ..999.95 => format!("{us:.1}"),
        ..99_999.5 => format!("{us:.0}"),
        ..9_999_500.0 => format!("{:.0}k", us / 1e3),
        _ => format!("{:.0}s", us / 1e6),
    }
}

fn whole(number: f64) -> String {
    format!("{number:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::comparison;

    #[test]
    fn a_comparison_is_this_text() {
        let text = render(&comparison(), Paint(false));
        assert_eq!(text, include_str!("text_example.txt"), "\n{text}");
    }

    #[test]
    fn it_fits_80_columns_whatever_the_figures_and_with_a_trace_too() {
        let mut comparison = comparison();
        for sample in comparison.rows.iter_mut().flat_map(|row| &mut row.samples) {
            sample.scanned = Some(28_256.5);
            sample.errors = 999_999;
            sample.total_s = 9_999.99;
            sample.per_second = 999_999.0;
            sample.odd_ns = Some(9_999_999_000.0);
            sample.p99_ns = Some(9_999_999_000.0);
        }
        comparison.rows[0].strategy = Strategy::SelectTestRepeat;
        let text = render(&comparison, Paint(false));
        assert!(
            text.contains(" scanned\n") && text.contains("28256.5"),
            "{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert_eq!(line, line.trim_end(), "no blanks at the end");
        }
    }

    #[test]
    fn short_times_have_five_columns() {
        for (us, text) in [
            (20.62, "20.6"),
            (2003.3, "2003"),
            (99_999.0, "99999"),
            (123_456.0, "123k"),
            (12_345_678.0, "12s"),
        ] {
            assert_eq!(short(us * 1e3), text);
        }
    }
}
