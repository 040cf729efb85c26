//! The charts as SVG, for the page and for files.

pub(crate) mod axis;
mod buckets;
mod causes;
pub(crate) mod heatmap;
mod occupancy;
mod port_map;
mod scatter;
pub(crate) mod shares;
pub(crate) mod svg;
pub(crate) mod timeline;

pub(super) use self::{
    buckets::buckets,
    causes::causes,
    occupancy::{Curve, MOST_CURVES, occupancy},
    scatter::{Across, scatter},
};
pub(crate) use self::{port_map::port_map, svg::Place};

use super::point;
use crate::connect::Outcome;

/// Returns the shape of an outcome in the legend, so that colour is not the only difference.
fn key(outcome: Outcome) -> String {
    let class = point::class(outcome);
    match outcome {
        Outcome::Even => format!(r#"<circle class="{class}" cx="8" cy="-4" r="4"/>"#),
        Outcome::Odd => format!(r#"<path class="{class} cross" d="M4 -8l8 8m0 -8l-8 8"/>"#),
        Outcome::Bound => format!(r#"<path class="{class}" d="M8 -9l5 5l-5 5l-5 -5z"/>"#),
        Outcome::Failed => format!(r#"<rect class="{class}" x="4" y="-8" width="8" height="8"/>"#),
    }
}

/// Returns the bar of an outcome for the legend of the buckets.
fn bar_key(outcome: Outcome) -> String {
    let class = point::class(outcome);
    format!(r#"<rect class="bar {class}" x="3" y="-9" width="10" height="10"/>"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{HOSTILE, set_of, well_formed};

    #[test]
    fn every_chart_is_well_formed_whatever_the_names_are() {
        let set = set_of(HOSTILE, 2_000);
        let empty = set_of(HOSTILE, 0);
        let curves: Vec<Curve> = (0..30)
            .map(|_| Curve {
                name: HOSTILE.to_owned(),
                means: vec![(0.1, 20_000.0), (0.9, 2e6)],
            })
            .collect();
        let span = axis::Span {
            low: 3.0,
            high: 7.0,
        };
        for place in [Place::Page, Place::File] {
            for set in [&set, &empty] {
                well_formed(&buckets(place, set));
                assert!(causes(place, set).is_none(), "not known");
                for across in [Across::Time, Across::Number] {
                    well_formed(&scatter(place, set, across, span));
                }
            }
            let mut with_causes = set_of(HOSTILE, 10);
            with_causes.causes_ns.get_or_insert_default()[4] = [1, 2, 3, 4, 5];
            let chart = causes(place, &with_causes).expect("they are known");
            well_formed(&chart);
            assert_eq!(chart.matches("<title>").count(), 1 + 5, "{chart}");
            well_formed(&occupancy(place, &curves));
            well_formed(&occupancy(place, &[]));
        }
    }
}
