//! Bars that are split into shares: how fast the connections of each strategy are, side by side.

use super::{
    axis::{self, Span},
    svg::{Chart, Place},
};
use crate::figures::escape;

/// Height of a bar, and of the text above it.
const BAR: f64 = 16.0;
const TEXT: f64 = 18.0;
const GAP: f64 = 8.0;

/// A bar.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    /// Name: may contain any characters.
    pub name: String,
    /// A count for each part, from the fastest to the slowest.
    pub counts: Vec<u64>,
}

/// Draws the bars below each other, all of the same length. `parts` has the name of each part.
pub(crate) fn shares(place: Place, label: &str, parts: &[String], bars: &[Shares]) -> String {
    let entries: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(number, part)| {
            let key =
                format!(r#"<rect class="share s{number}" x="3" y="-9" width="10" height="10"/>"#);
            (key, part.clone())
        })
        .collect();
    let row = TEXT + BAR + GAP;
    let mut chart = Chart::new(400.0, row * bars.len().max(1) as f64, &entries);
    chart.left = 16.0;
    for (number, bar) in bars.iter().enumerate() {
        let all: u64 = bar.counts.iter().sum();
        let top = chart.top - GAP + row * number as f64;
        let name = format!("{}: {}", escape::shortened(&bar.name, 36), axis::count(all));
        chart.text(chart.left, top + TEXT - 5.0, "ink", "start", &name);
        let mut before = 0;
        for (part, (&count, name)) in bar.counts.iter().zip(parts).enumerate() {
            if count == 0 {
                continue;
            }
            let share = |count: u64| count as f64 / all as f64;
            // Even the smallest share must be visible.
            let width = (share(count) * chart.plot_width()).max(2.0);
            let x = chart.x(share(before)).min(chart.x(1.0) - width);
            before += count;
            chart.add(format!(
                r#"<rect class="share s{part}" x="{x:.1}" y="{:.1}" width="{width:.1}" height="{BAR}">"#,
                top + TEXT
            ));
            chart.add(format!(
                "<title>{}, {}: {}, {} %</title></rect>",
                escape::markup(&bar.name),
                escape::markup(name),
                axis::count(count),
                axis::plain((share(count) * 1_000.0).round() / 10.0)
            ));
        }
    }
    let percents = Chart::linear(Span::up_to(100.0), 5, " %");
    chart.x_axis("share of the connect() calls", &percents);
    chart.finish(place, label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{HOSTILE, well_formed};

    #[test]
    fn a_share_that_is_tiny_is_drawn_and_one_of_nothing_is_not() {
        let parts = ["below 1 ms", "1 ms and more"].map(str::to_owned);
        let bar = |counts: [u64; 2]| Shares {
            name: HOSTILE.to_owned(),
            counts: counts.to_vec(),
        };
        let chart = shares(
            Place::Page,
            HOSTILE,
            &parts,
            &[bar([1_000_000, 1]), bar([3, 1]), bar([0, 0])],
        );
        well_formed(&chart);
        assert!(
            chart.contains(r#"x="378.0" y="55.0" width="2.0""#),
            "{chart}"
        );
        assert!(chart.contains(": 1, 25 %</title>"), "{chart}");
        assert_eq!(chart.matches("<title>").count(), 1 + 4);
        well_formed(&shares(Place::File, "", &[], &[]));
    }
}
