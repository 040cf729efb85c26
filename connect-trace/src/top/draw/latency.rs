//! Latency by parity: a histogram for each outcome, and its mean over time.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span, Text},
    widgets::Paragraph,
};

use super::Scene;
use crate::{
    connect::Outcome,
    live::{
        history::Times,
        view::{or_dash, title},
    },
    term::numbers::{count, time},
};

/// Width of the names of the rows.
const NAME: u16 = 9;
/// Width of a count in the histogram.
const COUNT: usize = 10;
/// Rows besides those of the histogram: heads, mean, slowest, and the mean of each ten seconds.
const OTHER_ROWS: usize = 4;
/// Parts of a character of a bar, and of a column of the course.
const BAR: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const COURSE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

impl Scene<'_> {
    pub(super) fn latency(&self, frame: &mut Frame<'_>, area: Rect) {
        let outcomes = self.view.outcomes();
        let buckets = self.buckets(usize::from(area.height));
        let widths = outcomes.iter().map(|_| Constraint::Fill(1));
        let columns = Layout::horizontal([Constraint::Length(NAME)].into_iter().chain(widths))
            .spacing(1)
            .split(area);
        frame.render_widget(Paragraph::new(names(&buckets)), columns[0]);
        let figures = self.state.figures(&self.view);
        let most = buckets.iter().flat_map(|bucket| {
            let counts = outcomes.iter().map(|outcome| {
                let times = &figures.times[outcome.index()];
                bucket.count(times)
            });
            counts.max()
        });
        let most = most.max().unwrap_or(0);
        for (&outcome, &column) in outcomes.iter().zip(&columns[1..]) {
            let times = &figures.times[outcome.index()];
            let style = self.theme.outcome(outcome);
            let mut lines = vec![Line::styled(short_title(outcome), self.theme.strong())];
            lines.extend(buckets.iter().map(|bucket| {
                let width = usize::from(column.width).saturating_sub(COUNT + 1);
                let number = bucket.count(times);
                let shown = if number == 0 {
                    "-".to_owned()
                } else {
                    count(number)
                };
                Line::from(vec![
                    Span::raw(format!("{shown:>COUNT$} ")),
                    Span::styled(bar(number, most, width), style),
                ])
            }));
            lines.push(value(or_dash(times.mean_ns())));
            lines.push(value(or_dash(times.slowest_ns())));
            let course = self.course(outcome, column.width.into());
            lines.push(Line::styled(course, style));
            frame.render_widget(Paragraph::new(Text::from(lines)), column);
        }
    }

    /// Returns the buckets that fit, the fastest first. The fastest ones share a row if there are too many.
    fn buckets(&self, height: usize) -> Vec<Bucket> {
        let (first, last) = self.view.buckets();
        let rows = height.saturating_sub(OTHER_ROWS).max(1);
        let shared = (last + 1).saturating_sub(rows).max(first);
        let buckets = shared..=last;
        buckets
            .map(|place| Bucket {
                first: if place == shared { first } else { place },
                last: place,
            })
            .collect()
    }

    /// Returns the mean of each column of the history that fits, the latest at the right end, as a power of ten.
    fn course(&self, outcome: Outcome, width: usize) -> String {
        let (first, last) = self.view.buckets();
        let powers = (last + 1 - first) as f64;
        let means = self
            .view
            .course(|column| column.times[outcome.index()].mean_ns());
        let left_out = means.len().saturating_sub(width);
        let shown = means[left_out..].iter().map(|mean| {
            mean.map_or(' ', |ns| {
                let share = (ns.max(1.0).log10() - first as f64) / powers;
                let step = (share * COURSE.len() as f64) as usize;
                COURSE[step.min(COURSE.len() - 1)]
            })
        });
        let course: String = shown.collect();
        format!("{course:>width$}")
    }
}

/// One or more powers of ten.
struct Bucket {
    first: usize,
    last: usize,
}

impl Bucket {
    fn count(&self, times: &Times) -> u64 {
        times.buckets[self.first..=self.last].iter().sum()
    }

    /// Returns the end of the bucket, in words.
    fn name(&self) -> String {
        let end = 10_u64.checked_pow(self.last as u32 + 1);
        end.map_or_else(
            || "more".to_owned(),
            |end| format!("< {}", time(end as f64)),
        )
    }
}

fn short_title(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Bound => "No search",
        outcome => title(outcome),
    }
}

fn names(buckets: &[Bucket]) -> Text<'static> {
    let right = |name: &str| Line::raw(format!("{name:>width$}", width = usize::from(NAME)));
    let names = buckets.iter().map(|bucket| right(&bucket.name()));
    [Line::raw("")]
        .into_iter()
        .chain(names)
        .chain(["mean", "slowest", "over time"].map(right))
        .collect()
}

fn value(text: String) -> Line<'static> {
    Line::raw(format!("{text:>COUNT$}"))
}

/// Returns a bar of this part of `most` that fits the width. A part that is not zero is seen.
fn bar(part: u64, most: u64, width: usize) -> String {
    if part == 0 || width == 0 {
        return String::new();
    }
    let steps = BAR.len() as u64;
    let length = u128::from(part) * width as u128 * u128::from(steps) / u128::from(most.max(1));
    // No longer than the width, which fits.
    let length = (length as usize).max(1);
    let (whole, rest) = (length / BAR.len(), length % BAR.len());
    let mut bar: String = "█".repeat(whole);
    if rest > 0 {
        bar.push(BAR[rest - 1]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_part_and_always_seen() {
        assert_eq!(bar(0, 8, 4), "");
        assert_eq!(bar(1, 1_000_000, 4), "▏");
        assert_eq!(bar(5, 8, 4), "██▌");
        assert_eq!(bar(u64::MAX, u64::MAX, 4), "████");
        assert_eq!(bar(1, 1, 0), "");
    }
}
