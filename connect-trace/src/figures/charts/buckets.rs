//! The buckets by powers of ten: there are two peaks if the ports of one parity are used up.

use connect_trace_common::buckets::lower_edge_ns;

use super::{
    axis::{self, Span},
    bar_key,
    svg::{Chart, Place},
};
use crate::figures::{
    dataset::Dataset,
    point::{KINDS, Kind},
};

/// Draws the number of connections in each bucket, side by side for even and odd ports, and for the other
/// kinds if there are any.
pub(in crate::figures) fn buckets(place: Place, set: &Dataset) -> String {
    let kinds: Vec<Kind> = KINDS
        .into_iter()
        .filter(|&kind| matches!(kind, Kind::Even | Kind::Odd) || set.count_of(kind) > 0)
        .collect();
    let of = |kind: Kind| set.by_kind[kind.index()].buckets();
    let entries: Vec<_> = kinds
        .iter()
        .map(|&kind| (bar_key(kind), named(kind, set)))
        .collect();
    let mut chart = Chart::new(400.0, 200.0, &entries);

    let filled = |&row: &usize| KINDS.iter().any(|&kind| of(kind)[row] > 0);
    let rows = 0..connect_trace_common::BUCKETS;
    let (first, last) = match (rows.clone().find(filled), rows.rev().find(filled)) {
        (Some(first), Some(last)) => (first, last),
        _ => (4, 6),
    };
    // A peak is easier to recognize with an empty bucket beside it.
    let first = first.saturating_sub(1);
    let last = (last + 1).min(connect_trace_common::BUCKETS - 1);
    let most = (first..=last)
        .flat_map(|row| kinds.iter().map(move |&kind| of(kind)[row]))
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
        for (place, &kind) in kinds.iter().enumerate() {
            let count = of(kind)[row];
            if count == 0 {
                continue;
            }
            let (x, y) = (left + place as f64 * bar, chart.y(span.share(count as f64)));
            // Even the smallest count must be visible.
            let y = y.min(chart.y(0.0) - 2.0);
            let what = format!("{}, {}: {}", kind.name(), range(row), axis::count(count));
            let (x, width) = (x + 1.0, (bar - 2.0).max(1.0));
            let height = chart.y(0.0) - y;
            chart.add(format!(
                r#"<rect class="bar {}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}">"#,
                kind.class(),
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

fn named(kind: Kind, set: &Dataset) -> String {
    format!("{} {}", kind.name(), axis::count(set.count_of(kind)))
}

fn range(row: usize) -> String {
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
