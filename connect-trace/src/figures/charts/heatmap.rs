//! The heat map: how many connections took how long, over time. A range that runs out moves colour from the even ports to
//! the odd ones, and up.

use connect_trace_common::{BUCKETS, buckets::lower_edge_ns};

use super::{
    axis,
    buckets::range,
    svg::{Chart, Place},
    timeline::Slot,
};
use crate::connect::Outcome;
use crate::figures::point;

/// Lower ends of the shades: powers of ten, so that a shade means the same in every map and at any time.
const SHADES: [u64; 5] = [1, 10, 100, 1_000, 10_000];

/// Height of a row of the map.
const ROW: f64 = 20.0;

/// Connections of one outcome, by the power of ten of their time.
#[derive(Clone, Debug)]
pub(crate) struct HeatMap<'a> {
    /// The outcome.
    pub outcome: Outcome,
    /// The columns.
    pub slots: &'a [Slot],
    /// Number of connections by power of ten, for each column.
    pub counts: Vec<[u64; BUCKETS]>,
    /// The first and the last power of ten that is drawn.
    pub rows: (usize, usize),
}

/// Draws a heat map. `ticks` are those of the time axis.
pub(crate) fn heatmap(place: Place, map: &HeatMap<'_>, ticks: &[(f64, String)]) -> String {
    let class = point::class(map.outcome);
    let key = |shade: usize| {
        format!(r#"<rect class="heat {class} h{shade}" x="3" y="-9" width="10" height="10"/>"#)
    };
    let name = |shade: usize| match shade {
        0 => "1 or more".to_owned(),
        shade => axis::count(SHADES[shade]),
    };
    let entries: Vec<_> = (0..SHADES.len())
        .map(|shade| (key(shade), name(shade)))
        .collect();
    let (first, last) = map.rows;
    let height = ROW * (last - first + 1) as f64;
    let mut chart = Chart::new(400.0, height, &entries);
    let share = |row: usize| (row - first) as f64 / (last - first + 1) as f64;
    let edges: Vec<_> = (first..=last)
        .map(|row| (share(row), axis::time(lower_edge_ns(row) as f64)))
        .collect();
    chart.y_axis("connect() took at least", &edges);
    for (slot, counts) in map.slots.iter().zip(&map.counts) {
        // Rounded before they are subtracted: columns side by side have no seam.
        let [left, right] =
            [slot.from, slot.to].map(|share| (chart.x(share) * 10.0).round() / 10.0);
        for (row, &count) in counts.iter().enumerate().take(last + 1).skip(first) {
            if count == 0 {
                continue;
            }
            let shade = SHADES.partition_point(|&from| from <= count) - 1;
            let (x, y) = (left, chart.y(share(row)) - ROW);
            // Even a short interval must be visible.
            let width = (right - left).max(1.0);
            chart.add(format!(
                r#"<rect class="heat {class} h{shade}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{ROW}">"#
            ));
            chart.add(format!(
                "<title>{}, {}, {}: {}</title></rect>",
                slot.until(),
                point::name(map.outcome),
                range(row),
                axis::count(count)
            ));
        }
    }
    chart.x_axis("time of day", ticks);
    let all: u64 = map.counts.iter().flatten().sum();
    let label = format!(
        "Times of {} connect() calls over the last quarter of an hour: {}",
        axis::count(all),
        point::name(map.outcome)
    );
    chart.finish(place, &label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{charts::timeline::tests::slots, tests::well_formed};

    fn map(slots: &[Slot], counts: Vec<[u64; BUCKETS]>, rows: (usize, usize)) -> HeatMap<'_> {
        HeatMap {
            outcome: Outcome::Odd,
            slots,
            rows,
            counts,
        }
    }

    #[test]
    fn a_shade_is_a_power_of_ten_of_the_count() {
        let slots = slots(3);
        let mut counts = vec![[0; BUCKETS]; 3];
        (counts[0][4], counts[1][4], counts[2][7]) = (9, 10, 1_000_000);
        let map = map(&slots, counts, (4, 7));
        let chart = heatmap(Place::Page, &map, &[(0.0, "12:00".to_owned())]);
        well_formed(&chart);
        let drawn = |shade: &str| chart.matches(&format!(r#"heat odd {shade}""#)).count();
        // Each shade is in the legend once.
        assert_eq!(["h0", "h1", "h2", "h3", "h4"].map(drawn), [2, 2, 1, 1, 2]);
        assert!(
            chart.contains("odd port, 10 ms to 100 ms: 1,000,000</title>"),
            "{chart}"
        );
    }

    #[test]
    fn a_map_without_a_connect_has_axes_only() {
        let slots = slots(2);
        let map = map(&slots, vec![[0; BUCKETS]; 2], (4, 6));
        let chart = heatmap(Place::File, &map, &[]);
        well_formed(&chart);
        assert_eq!(chart.matches("<rect class=\"heat").count(), SHADES.len());
    }

    #[test]
    fn the_fastest_and_the_slowest_are_within_the_map() {
        let slots = slots(1);
        let map = map(&slots, vec![[1; BUCKETS]], (0, BUCKETS - 1));
        let chart = heatmap(Place::Page, &map, &[]);
        assert_eq!(chart.matches("<title>").count(), 1 + BUCKETS);
    }
}
