//! A chart as SVG: the frame, the axes and the legend that all charts share.

use std::fmt::Write as _;

use super::axis::Span;
use crate::figures::escape;

/// The style sheet of all charts, on the page and in files.
pub(in crate::figures) const STYLE: &str = include_str!("../assets/charts.css");

/// Destination of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The page, which has the style sheet and the colours.
    Page,
    /// A file of its own, with light colours on white.
    File,
}

/// Height of a line of the legend, and width of a key in it.
const LINE: f64 = 17.0;
const KEY: f64 = 20.0;

/// Width of a character in the widest of the common fonts.
const CHARACTER: f64 = 7.3;

/// Minimum distance between two labels of the x axis.
const GAP: f64 = 8.0;

/// Maximum width of a text.
fn width_of(text: &str) -> f64 {
    CHARACTER * text.chars().count() as f64
}

/// Returns the interval of the ticks that get a label, so that labels do not overlap.
fn labelled(plot_width: f64, ticks: &[(f64, String)]) -> usize {
    let widths = ticks.iter().map(|(_, label)| width_of(label));
    let needs = widths.fold(0.0, f64::max) + GAP;
    let apart = ticks
        .windows(2)
        .map(|two| (two[1].0 - two[0].0) * plot_width);
    let apart = apart.fold(f64::INFINITY, f64::min);
    (needs / apart).ceil().max(1.0) as usize
}

/// Returns the positions of the entries of a legend: x and line. Lines break before the right edge.
fn flow(width: f64, entries: &[(String, String)]) -> Vec<(f64, usize)> {
    const LEFT: f64 = 8.0;
    let (mut x, mut line) = (LEFT, 0);
    let place = |(_, name): &(String, String)| {
        let needs = KEY + width_of(name);
        if x > LEFT && x + needs > width {
            (x, line) = (LEFT, line + 1);
        }
        let here = (x, line);
        x += needs + 10.0;
        here
    };
    entries.iter().map(place).collect()
}

/// A chart that is being drawn.
pub(crate) struct Chart {
    pub width: f64,
    pub height: f64,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    /// Style of a drawing that differs from the charts, for a file.
    pub style: &'static str,
    body: String,
}

impl Chart {
    /// Creates a chart with a legend of keys, which are markup, and names. `plot` is the height of the plot.
    pub(crate) fn new(width: f64, plot: f64, entries: &[(String, String)]) -> Self {
        let lines = flow(width, entries).last().map_or(0, |(_, line)| line + 1);
        let top = 28.0 + LINE * lines as f64;
        let bottom = 38.0;
        let mut chart = Self {
            width,
            height: top + plot + bottom,
            left: 52.0,
            right: 20.0,
            top,
            bottom,
            style: "",
            body: String::new(),
        };
        chart.legend(entries);
        chart
    }

    pub(crate) fn plot_width(&self) -> f64 {
        self.width - self.left - self.right
    }

    pub(super) fn plot_height(&self) -> f64 {
        self.height - self.top - self.bottom
    }

    /// Returns the x coordinate of a share of the x axis.
    pub(crate) fn x(&self, share: f64) -> f64 {
        self.left + share * self.plot_width()
    }

    /// Returns the y coordinate of a share of the y axis, which goes up.
    pub(super) fn y(&self, share: f64) -> f64 {
        self.top + (1.0 - share) * self.plot_height()
    }

    /// Adds markup that is escaped already.
    pub(crate) fn add(&mut self, markup: impl AsRef<str>) {
        self.body.push_str(markup.as_ref());
        self.body.push('\n');
    }

    /// Adds a text; `anchor` is start, middle or end.
    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escape::markup(text);
        self.add(format!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// Draws a horizontal line with a label at each tick, and the name of the axis above.
    pub(super) fn y_axis(&mut self, name: &str, ticks: &[(f64, String)]) {
        let (from, to) = (self.left, self.width - self.right);
        for (share, label) in ticks {
            let y = self.y(*share);
            self.add(format!(
                r#"<path class="grid" d="M{from:.1} {y:.1}H{to:.1}"/>"#
            ));
            self.text(from - 6.0, y + 4.0, "faint", "end", label);
        }
        self.text(8.0, self.top - 10.0, "faint", "start", name);
    }

    /// Draws a tick at each position, as many labels as there is room for, and the name of the axis below.
    pub(crate) fn x_axis(&mut self, name: &str, ticks: &[(f64, String)]) {
        let y = self.height - self.bottom;
        let (from, to) = (self.left, self.width - self.right);
        self.add(format!(
            r#"<path class="axis" d="M{from:.1} {y:.1}H{to:.1}"/>"#
        ));
        let every = labelled(self.plot_width(), ticks);
        for (number, (share, label)) in ticks.iter().enumerate() {
            let x = self.x(*share);
            self.add(format!(r#"<path class="axis" d="M{x:.1} {y:.1}v4"/>"#));
            if number % every == 0 {
                let most = self.width - width_of(label) / 2.0;
                self.text(x.min(most), y + 17.0, "faint", "middle", label);
            }
        }
        let middle = self.x(0.5);
        self.text(middle, y + 33.0, "faint", "middle", name);
    }

    /// Returns the labels of a linear axis.
    pub(crate) fn linear(span: Span, about: u32, unit: &str) -> Vec<(f64, String)> {
        let ticks = span.ticks(about).into_iter();
        ticks
            .map(|tick| {
                (
                    span.share(tick),
                    format!("{}{unit}", super::axis::plain(tick)),
                )
            })
            .collect()
    }

    /// Returns the labels of a log axis of times.
    pub(super) fn times(span: Span) -> Vec<(f64, String)> {
        let ticks = span.log_ticks().into_iter();
        ticks
            .map(|ns| (span.share(ns.log10()), super::axis::time(ns)))
            .collect()
    }

    /// Draws the keys and names of the legend, in lines from the top.
    fn legend(&mut self, entries: &[(String, String)]) {
        for ((key, name), (x, line)) in entries.iter().zip(flow(self.width, entries)) {
            let y = 14.0 + LINE * line as f64;
            self.add(format!(
                r#"<g transform="translate({x:.1} {y:.1})">{key}</g>"#
            ));
            self.text(x + KEY, y, "ink", "start", name);
        }
    }

    /// Returns the finished SVG, with a description for screen readers.
    pub(crate) fn finish(self, place: Place, label: &str) -> String {
        let (width, height) = (self.width, self.height);
        let label = escape::markup(label);
        let mut svg =
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img""#.to_owned();
        let _ = write!(svg, r#" viewBox="0 0 {width} {height}""#);
        if place == Place::File {
            let _ = write!(svg, r#" width="{width}" height="{height}""#);
        }
        let _ = writeln!(svg, "><title>{label}</title>");
        if place == Place::File {
            let style = without_variables(STYLE);
            let _ = writeln!(svg, "<style>{style}{}</style>", self.style);
            let _ = writeln!(
                svg,
                r##"<rect class="paper" width="{width}" height="{height}" fill="#fff"/>"##
            );
        }
        svg.push_str(&self.body);
        svg.push_str("</svg>\n");
        svg
    }
}

/// Replaces each `var()` by its second argument: not all programs that show SVG support variables.
fn without_variables(style: &str) -> String {
    let mut parts = style.split("var(");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once(')').unwrap_or((part, ""));
        let value = variable
            .split_once(',')
            .map_or("inherit", |(_, value)| value);
        plain.push_str(value.trim());
        plain.push_str(rest);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_breaks_its_lines_before_the_edge() {
        let entries = ["default", "window-500", "select-test-repeat", "a", ""]
            .map(|name| (String::new(), name.to_owned()));
        let lines: Vec<usize> = flow(300.0, &entries).iter().map(|place| place.1).collect();
        assert_eq!(lines, [0, 0, 1, 1, 1]);
        assert_eq!(flow(10.0, &entries).last(), Some(&(8.0, 4)));
    }

    #[test]
    fn labels_that_have_no_room_are_left_out() {
        let edges = |count: usize, label: &str| -> Vec<_> {
            let share = |number: usize| number as f64 / count as f64;
            (0..count)
                .map(|number| (share(number), label.to_owned()))
                .collect()
        };
        assert_eq!(labelled(328.0, &edges(4, "100 ms")), 1);
        assert_eq!(labelled(328.0, &edges(10, "100 ms")), 2);
        assert_eq!(labelled(328.0, &edges(1, "100 ms")), 1);
        assert_eq!(labelled(328.0, &[]), 1);
    }

    #[test]
    fn a_file_has_colours_of_its_own() {
        assert_eq!(
            without_variables("a{fill:var(--x, #123);stroke:var(--y,none)}"),
            "a{fill:#123;stroke:none}"
        );
        let style = without_variables(STYLE);
        assert!(
            !style.contains("var(") && !style.contains("inherit"),
            "{style}"
        );
        assert!(!style.contains(['<', '&']), "it stands in XML as it is");
    }
}
