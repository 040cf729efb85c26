//! Values over time, in columns of equal or different widths: a line for each.

use super::{
    axis::{self, Span},
    occupancy,
    svg::{Chart, Place},
};
use crate::figures::escape;

/// Maximum number of lines of a timeline: one for each colour.
pub(crate) const MOST_LINES: usize = 6;

/// A column of a chart over time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    /// Left edge, as a share of the time axis.
    pub from: f64,
    /// Right edge.
    pub to: f64,
    /// Time of day at the right edge.
    pub at: String,
}

impl Slot {
    /// Returns the time of the column in words.
    pub(super) fn until(&self) -> String {
        escape::markup(&format!("until {}", self.at))
    }
}

/// One line of a timeline.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Name: may contain any characters.
    pub name: String,
    /// A value for each column; `None` breaks the line.
    pub values: Vec<Option<f64>>,
}

/// Values over time.
#[derive(Clone, Debug)]
pub(crate) struct Timeline<'a> {
    /// Description for screen readers.
    pub label: &'a str,
    /// Name of the vertical axis.
    pub axis: &'a str,
    /// Unit of the values, with a space before it.
    pub unit: &'a str,
    /// Upper end of the vertical axis.
    pub high: f64,
    /// The columns.
    pub slots: &'a [Slot],
    /// The lines; those beyond [`MOST_LINES`] are not drawn.
    pub lines: &'a [Line],
}

/// Draws the lines as steps: a value holds for its whole column. `ticks` are those of the time axis.
pub(crate) fn timeline(place: Place, chart: &Timeline<'_>, ticks: &[(f64, String)]) -> String {
    let Timeline {
        label,
        axis,
        unit,
        high,
        slots,
        lines,
    } = *chart;
    let lines = &lines[..lines.len().min(MOST_LINES)];
    let entries: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(number, line)| {
            let key = format!(
                r#"<path class="{}" d="M0 -4h16"/>"#,
                occupancy::class(number)
            );
            (key, escape::shortened(&line.name, 48))
        })
        .collect();
    let mut chart = Chart::new(400.0, 150.0, &entries);
    let span = Span::up_to(high);
    chart.y_axis(axis, &Chart::linear(span, 4, unit));
    for (number, line) in lines.iter().enumerate() {
        let mut path = String::new();
        let mut is_drawing = false;
        for (slot, value) in slots.iter().zip(&line.values) {
            let Some(value) = value else {
                is_drawing = false;
                continue;
            };
            let y = chart.y(span.share(value.min(span.high)));
            let (from, to) = (chart.x(slot.from), chart.x(slot.to));
            let step = if is_drawing { 'L' } else { 'M' };
            path.push_str(&format!("{step}{from:.1} {y:.1}H{to:.1}"));
            is_drawing = true;
        }
        if path.is_empty() {
            continue;
        }
        let last = slots.iter().zip(&line.values).rev();
        let last = last
            .filter_map(|(slot, value)| Some((slot, (*value)?)))
            .next();
        let last = last.map_or_else(String::new, |(slot, value)| {
            format!(": {}{unit} {}", axis::plain(value), slot.until())
        });
        chart.add(format!(
            r#"<path class="{} step" d="{path}"><title>{}{last}</title></path>"#,
            occupancy::class(number),
            escape::markup(&line.name)
        ));
    }
    chart.x_axis("time of day", ticks);
    chart.finish(place, label)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::figures::tests::{HOSTILE, well_formed};

    /// Returns columns of equal widths.
    pub(in crate::figures::charts) fn slots(count: usize) -> Vec<Slot> {
        let edge = |number: usize| number as f64 / count as f64;
        (0..count)
            .map(|number| Slot {
                from: edge(number),
                to: edge(number + 1),
                at: format!("12:00:0{number}"),
            })
            .collect()
    }

    fn drawn(lines: &[Line]) -> String {
        let slots = slots(4);
        let chart = Timeline {
            label: HOSTILE,
            axis: "ports in use",
            unit: " %",
            high: 100.0,
            slots: &slots,
            lines,
        };
        let chart = timeline(Place::Page, &chart, &[]);
        well_formed(&chart);
        chart
    }

    fn line(values: [Option<f64>; 4]) -> Line {
        Line {
            name: HOSTILE.to_owned(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn a_line_goes_in_steps_and_is_broken_where_nothing_is_known() {
        let chart = drawn(&[line([Some(50.0), Some(75.0), None, Some(500.0)])]);
        // From 52 to 380 across, and from 45 (100 %) to 195 (0 %) down.
        let path = r#"d="M52.0 120.0H134.0L134.0 82.5H216.0M298.0 45.0H380.0""#;
        assert!(chart.contains(path), "{chart}");
        assert!(chart.contains(": 500 % until 12:00:03</title>"), "{chart}");
    }

    #[test]
    fn lines_without_values_and_too_many_lines_are_no_error() {
        let chart = drawn(&[line([None; 4])]);
        assert!(!chart.contains(" step"), "{chart}");
        let many = vec![line([Some(1.0); 4]); MOST_LINES + 3];
        assert_eq!(drawn(&many).matches(" step").count(), MOST_LINES);
        drawn(&[]);
    }
}
