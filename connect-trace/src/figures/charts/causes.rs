//! The causes of the time of connect() calls, by powers of ten of that time: the cause of the slow calls is the tallest
//! part of the bars on the right.

use connect_trace_common::buckets::lower_edge_ns;

use super::{
    axis,
    buckets::range,
    svg::{Chart, Place},
};
use crate::connect::Cause;
use crate::figures::dataset::{ByCause, Dataset};

/// Draws the share of each cause in the time of the calls of each power of ten; `None` if the causes are not known.
pub(in crate::figures) fn causes(place: Place, set: &Dataset) -> Option<String> {
    let buckets = set.causes_ns.as_ref()?;
    let total = |bucket: &ByCause| bucket.iter().map(|&ns| ns as f64).sum::<f64>();
    let is_filled = |row: &usize| total(&buckets[*row]) > 0.0;
    let first = (0..buckets.len()).find(is_filled)?;
    let last = (0..buckets.len()).rev().find(is_filled)?;
    let entries = Cause::ALL.map(|cause| {
        let key = format!(
            r#"<rect class="cause {}" x="3" y="-9" width="10" height="10"/>"#,
            class(cause)
        );
        (key, cause.in_words().to_owned())
    });
    let mut chart = Chart::new(400.0, 200.0, &entries);
    let ticks = [0.0, 0.25, 0.5, 0.75, 1.0];
    let ticks = ticks.map(|share| (share, format!("{} %", share * 100.0)));
    chart.y_axis("share of the time", &ticks);

    let width = chart.plot_width() / (last - first + 1) as f64;
    for (row, bucket) in buckets.iter().enumerate().take(last + 1).skip(first) {
        let x = chart.left + (row - first) as f64 * width + width * 0.1;
        let all = total(bucket);
        let mut below = 0.0;
        for cause in Cause::ALL {
            let ns = bucket[cause.index()] as f64;
            if ns == 0.0 {
                continue;
            }
            let share = ns / all;
            let (top, bottom) = (chart.y(below + share), chart.y(below));
            below += share;
            chart.add(format!(
                r#"<rect class="cause {}" x="{x:.1}" y="{top:.1}" width="{:.1}" height="{:.1}">"#,
                class(cause),
                width * 0.8,
                bottom - top,
            ));
            chart.add(format!(
                "<title>{}, calls of {}: {} %, {}</title></rect>",
                cause.in_words(),
                range(row),
                axis::plain((share * 1_000.0).round() / 10.0),
                axis::time(ns),
            ));
        }
    }
    let edges: Vec<_> = (first..=last)
        .map(|row| {
            let share = (row - first) as f64 / (last - first + 1) as f64;
            (share, axis::time(lower_edge_ns(row) as f64))
        })
        .collect();
    chart.x_axis("connect() took at least", &edges);
    let label = format!("Causes of the time of connections: {}", set.name);
    Some(chart.finish(place, &label))
}

/// Returns the class of a cause in the style sheet.
fn class(cause: Cause) -> &'static str {
    match cause {
        Cause::Ports => "f0",
        Cause::Locks => "f1",
        Cause::Scheduler => "f2",
        Cause::Blocked => "f3",
        Cause::Stack => "f4",
    }
}
