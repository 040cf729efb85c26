//! The occupancy curves of several strategies.

use super::{
    axis::Span,
    svg::{Chart, Place},
};
use crate::figures::escape;

/// Number of colours of curves, and of dash patterns for further curves.
const COLOURS: usize = 6;
const DASHES: usize = 4;

/// Maximum number of curves of a chart; more could not be told apart.
pub(in crate::figures) const MOST_CURVES: usize = COLOURS * DASHES;

/// Mean times of connections by the share of the range in use.
#[derive(Clone, Debug)]
pub(in crate::figures) struct Curve {
    /// Name of the strategy: may contain any characters.
    pub name: String,
    /// Share, 0 to 1, and mean time in nanoseconds.
    pub means: Vec<(f64, f64)>,
}

/// Draws a curve for each strategy.
pub(in crate::figures) fn occupancy(place: Place, curves: &[Curve]) -> String {
    let curves = &curves[..curves.len().min(MOST_CURVES)];
    let entries: Vec<_> = curves
        .iter()
        .enumerate()
        .map(|(number, curve)| {
            let key = format!(r#"<path class="{}" d="M0 -4h16"/>"#, class(number));
            (key, escape::shortened(&curve.name, 24))
        })
        .collect();
    let mut chart = Chart::new(400.0, 200.0, &entries);
    let span = Span::of_times(
        curves
            .iter()
            .flat_map(|curve| curve.means.iter().map(|mean| mean.1)),
    );
    chart.y_axis(
        "mean of connect() and what the strategy does before it",
        &Chart::times(span),
    );
    let shares = Chart::linear(Span::up_to(100.0), 5, " %");
    chart.x_axis("share of the range in use", &shares);
    for (number, curve) in curves.iter().enumerate() {
        let path: Vec<_> = curve
            .means
            .iter()
            .map(|&(share, ns)| {
                let y = chart.y(span.share(ns.max(1.0).log10()));
                format!("{:.1} {y:.1}", chart.x(share))
            })
            .collect();
        chart.add(format!(
            r#"<path class="{}" d="M{}"><title>{}</title></path>"#,
            class(number),
            path.join("L"),
            escape::markup(&curve.name)
        ));
    }
    chart.finish(place, "Mean time by the share of the range in use")
}

/// Returns the classes of a curve in the style sheet.
pub(super) fn class(number: usize) -> String {
    format!("curve c{} d{}", number % COLOURS, number / COLOURS)
}
