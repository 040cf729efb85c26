//! The scatter as SVG: for files, for print, and for a page without scripts. Points on the same spot are
//! drawn once, which keeps the file small.

use std::fmt::Write as _;

use super::{
    axis::{self, Span},
    key,
    svg::{Chart, Place},
};
use crate::figures::{
    dataset::{Dataset, Drawn},
    point::{KINDS, Kind},
};

/// Side of a spot, in pixels: large enough to show the shape that is drawn on it.
const SPOT: usize = 4;

/// Quantity on the x axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::figures) enum Across {
    /// Start of the connect().
    Time,
    /// Number of connections before it.
    Number,
}

/// Draws the latency of each connect(), on a log axis with this span.
pub(in crate::figures) fn scatter(
    place: Place,
    set: &Dataset,
    across: Across,
    span: Span,
) -> String {
    let kinds: Vec<Kind> = KINDS
        .into_iter()
        .filter(|&kind| set.count_of(kind) > 0)
        .collect();
    let value = |point: &Drawn| match across {
        Across::Time => point.at_ns as f64 / 1e9,
        Across::Number => f64::from(point.number),
    };
    let x_span = Span::up_to(set.points.iter().map(value).fold(0.0, f64::max));
    let lines = set.lines();
    let line = match across {
        Across::Time => lines.time_log,
        Across::Number => lines.number_log,
    };
    let mut entries: Vec<_> = kinds
        .iter()
        .map(|&kind| {
            let count = axis::count(set.count_of(kind));
            (key(kind), format!("{} {count}", kind.name()))
        })
        .collect();
    if let Some(line) = line {
        let key = r#"<path class="regression" d="M0 -4h16"/>"#.to_owned();
        let ends = [0.0, x_span.high].map(|x| axis::time(10_f64.powf(line.at(x))));
        entries.push((key, format!("regression {} to {}", ends[0], ends[1])));
    }
    let mut chart = Chart::new(720.0, 250.0, &entries);
    chart.y_axis("connect()", &Chart::times(span));
    let (name, unit) = match across {
        Across::Time => ("time of the connect()", " s"),
        Across::Number => ("number of the connect()", ""),
    };
    let mut ticks = Chart::linear(x_span, 6, unit);
    if across == Across::Number {
        for (tick, (_, label)) in x_span.ticks(6).into_iter().zip(&mut ticks) {
            *label = axis::count(tick as u64);
        }
    }
    chart.x_axis(name, &ticks);

    let columns = chart.plot_width() as usize / SPOT;
    let rows = chart.plot_height() as usize / SPOT;
    let place_of = |share: f64, count: usize| ((share * count as f64) as usize).min(count - 1);
    let mut spots = vec![0_u8; columns * rows];
    for point in &set.points {
        let column = place_of(x_span.share(value(point)), columns);
        let power = (point.latency_ns.max(1) as f64).log10();
        let row = place_of(1.0 - span.share(power), rows);
        let kind = set.details[usize::from(point.detail)].kind;
        spots[row * columns + column] |= 1 << kind.index();
    }
    let (left, top) = (chart.left, chart.top);
    for kind in kinds {
        let mut path = String::new();
        for (number, &kinds) in spots.iter().enumerate() {
            let (column, row) = (number % columns, number / columns);
            if shown(kinds, row + column) == Some(kind) {
                let _ = write!(
                    path,
                    "M{} {}{}",
                    left as usize + column * SPOT,
                    top as usize + row * SPOT,
                    mark(kind)
                );
            }
        }
        let class = kind.class();
        chart.add(format!(r#"<path class="{class} marks" d="{path}"/>"#));
    }
    if let Some(line) = line {
        let (width, height) = (chart.plot_width(), chart.plot_height());
        let y = |x: f64| (1.0 - span.share(line.at(x))) * height;
        // The inner svg clips the line to the plot.
        chart.add(format!(
            r#"<svg x="{left}" y="{top}" width="{width}" height="{height}">"#
        ));
        let line = format!("M0 {:.1}L{width} {:.1}", y(0.0), y(x_span.high));
        chart.add(format!(r#"<path class="halo" d="{line}"/>"#));
        chart.add(format!(r#"<path class="regression" d="{line}"/></svg>"#));
    }
    let label = format!("Latency of each connect() by its {name}: {}", set.name);
    chart.finish(place, &label)
}

/// Returns the path from the upper left corner of a spot, in the shape of the legend.
fn mark(kind: Kind) -> &'static str {
    match kind {
        // A point, drawn with round ends.
        Kind::Even => "m2 2h.01",
        Kind::Odd => "l4 4m0-4l-4 4",
        Kind::Other => "m2 1l1 1l-1 1l-1-1z",
        // A single failure among many thousands must be visible.
        Kind::Failed => "m-.5 2h5",
    }
}

/// Returns the kind that is shown on a spot: a failure, or else each kind on its share of the spots.
fn shown(kinds: u8, spot: usize) -> Option<Kind> {
    let has = |kind: &Kind| kinds >> kind.index() & 1 == 1;
    if has(&Kind::Failed) {
        return Some(Kind::Failed);
    }
    let count = kinds.count_ones() as usize;
    KINDS.into_iter().filter(has).nth(spot % count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_hides_another_and_failures_are_always_seen() {
        assert_eq!(shown(0, 0), None);
        let both = 1 << Kind::Even.index() | 1 << Kind::Odd.index();
        let seen = [0, 1, 2].map(|spot| shown(both, spot).unwrap());
        assert_eq!(seen, [Kind::Even, Kind::Odd, Kind::Even]);
        assert_eq!(
            shown(both | 1 << Kind::Failed.index(), 1),
            Some(Kind::Failed)
        );
    }
}
