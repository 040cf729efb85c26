//! The buckets by powers of ten: there are two peaks if the ports of one parity are used up.

use connect_trace_common::buckets::lower_edge_ns;

use super::{
    axis::{self, Span},
    bar_key,
    svg::{Chart, Place},
};
use crate::connect::Outcome;
use crate::figures::{dataset::Dataset, point};

/// Draws the number of connections in each bucket, side by side for even and odd ports, and for the other
/// kinds if there are any.
pub(in crate::figures) fn buckets(place: Place, set: &Dataset) -> String {
    let kinds: Vec<Outcome> = Outcome::ALL
        .into_iter()
        .filter(|&outcome| {
            matches!(outcome, Outcome::Even | Outcome::Odd) || set.count_of(outcome) > 0
        })
        .collect();
    let of = |outcome: Outcome| set.by_outcome[outcome.index()].buckets();
    let entries: Vec<_> = kinds
        .iter()
        .map(|&outcome| (bar_key(outcome), named(outcome, set)))
        .collect();
    let mut chart = Chart::new(400.0, 200.0, &entries);

    let filled = |&row: &usize| Outcome::ALL.iter().any(|&outcome| of(outcome)[row] > 0);
    let rows = 0..connect_trace_common::BUCKETS;
    let (first, last) = match (rows.clone().find(filled), rows.rev().find(filled)) {
        (Some(first), Some(last)) => (first, last),
        _ => (4, 6),
    };
    // A peak is easier to recognize with an empty bucket beside it.
    let first = first.saturating_sub(1);
    let last = (last + 1).min(connect_trace_common::BUCKETS - 1);
    let most = (first..=last)
        .flat_map(|row| kinds.iter().map(move |&outcome| of(outcome)[row]))
        .max();
    let span = Span::up_to(most.unwrap_or(0) as f64 * 1.08);
    let ticks: Vec<_> = span
        .ticks(4)
        .into_iter()
        .filter(|tick| tick.fract() == 0.0)
        .map(|tick| (span.share(tick), short(tick)))
        .collect();
    chart.y_axis("connects", &ticks);

    let width = chart.plot_width() / (last - first + 1) as f64;
    let bar = width * 0.84 / kinds.len() as f64;
    for row in first..=last {
        let left = chart.left + (row - first) as f64 * width + width * 0.08;
        for (place, &outcome) in kinds.iter().enumerate() {
            let count = of(outcome)[row];
            if count == 0 {
                continue;
            }
            let (x, y) = (left + place as f64 * bar, chart.y(span.share(count as f64)));
            // Even the smallest count must be visible.
            let y = y.min(chart.y(0.0) - 2.0);
            let what = format!(
                "{}, {}: {}",
                point::name(outcome),
                range(row),
                axis::count(count)
            );
            let (x, width) = (x + 1.0, (bar - 2.0).max(1.0));
            let height = chart.y(0.0) - y;
            chart.add(format!(
                r#"<rect class="bar {}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}">"#,
                point::class(outcome),
            ));
            chart.add(format!("<title>{what}</title></rect>"));
        }
    }
    let edges: Vec<_> = (first..=last)
        .map(|row| {
            let share = (row - first) as f64 / (last - first + 1) as f64;
            (share, axis::time(lower_edge_ns(row) as f64))
        })
        .collect();
    chart.x_axis("connect() took at least", &edges);
    let label = format!("Connections by power of ten of their time: {}", set.name);
    chart.finish(place, &label)
}

fn named(outcome: Outcome, set: &Dataset) -> String {
    format!(
        "{} {}",
        point::name(outcome),
        axis::count(set.count_of(outcome))
    )
}

/// Returns the times of a bucket.
pub(super) fn range(row: usize) -> String {
    let from = axis::time(lower_edge_ns(row) as f64);
    if row + 1 == connect_trace_common::BUCKETS {
        return format!("{from} and more");
    }
    format!("{from} to {}", axis::time(lower_edge_ns(row + 1) as f64))
}

/// Returns a round count in few characters.
fn short(count: f64) -> String {
    match count {
        count if count >= 1e6 => format!("{} M", axis::plain(count / 1e6)),
        count if count >= 1e4 => format!("{} k", axis::plain(count / 1e3)),
        count => axis::count(count as u64),
    }
}
