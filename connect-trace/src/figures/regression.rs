//! The regression line of a scatter: least squares over every successful connect(), drawn or not.

use serde::Serialize;

/// Sums of a least-squares fit that is updated with each point, by Welford's method, which keeps precision.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Regression {
    count: f64,
    mean_x: f64,
    mean_y: f64,
    /// Sum of the squares of x, and of the products of x and y, about the means.
    xx: f64,
    xy: f64,
}

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Line {
    /// y at x = 0.
    pub intercept: f64,
    /// Change of y for one of x.
    pub slope: f64,
}

impl Regression {
    /// Adds a point.
    pub(super) fn add(&mut self, x: f64, y: f64) {
        self.count += 1.0;
        let dx = x - self.mean_x;
        self.mean_x += dx / self.count;
        self.mean_y += (y - self.mean_y) / self.count;
        self.xx += dx * (x - self.mean_x);
        self.xy += dx * (y - self.mean_y);
    }

    /// Returns the line; `None` if the points do not determine one.
    pub(super) fn line(&self) -> Option<Line> {
        let slope = self.xy / self.xx;
        (self.count >= 2.0 && slope.is_finite()).then_some(Line {
            intercept: self.mean_y - slope * self.mean_x,
            slope,
        })
    }
}

impl Line {
    /// y at x.
    pub(super) fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }
}

/// The fits of one scatter: over the time in seconds and over the number, of the latency in nanoseconds and
/// of its logarithm to base 10. Each pair of axes thus has the best line that is straight on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fits {
    time_log: Regression,
    time_linear: Regression,
    number_log: Regression,
    number_linear: Regression,
}

/// The lines of [`Fits`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Lines {
    pub time_log: Option<Line>,
    pub time_linear: Option<Line>,
    pub number_log: Option<Line>,
    pub number_linear: Option<Line>,
}

impl Fits {
    /// Adds a successful connect().
    pub(super) fn add(&mut self, at_ns: u64, number: u64, latency_ns: u64) {
        let (seconds, number, ns) = (at_ns as f64 / 1e9, number as f64, latency_ns as f64);
        let log = ns.max(1.0).log10();
        self.time_log.add(seconds, log);
        self.time_linear.add(seconds, ns);
        self.number_log.add(number, log);
        self.number_linear.add(number, ns);
    }

    /// Returns the lines of the points so far.
    pub(super) fn lines(&self) -> Lines {
        Lines {
            time_log: self.time_log.line(),
            time_linear: self.time_linear.line(),
            number_log: self.number_log.line(),
            number_linear: self.number_linear.line(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_line_is_found_again() {
        let mut regression = Regression::default();
        for x in 0..1_000 {
            let x = f64::from(x) + 1e6;
            // Errors that cancel each other out: one pair below and above at each x.
            for error in [-0.25, 0.25] {
                regression.add(x, 3.5 - 0.125 * x + error);
            }
        }
        let line = regression.line().unwrap();
        assert!((line.slope + 0.125).abs() < 1e-9, "{line:?}");
        assert!((line.at(1e6 + 10.0) - (3.5 - 0.125 * (1e6 + 10.0))).abs() < 1e-6);
    }

    #[test]
    fn scattered_points_give_the_line_of_the_textbook() {
        let mut regression = Regression::default();
        for (x, y) in [(1.0, 2.0), (2.0, 3.0), (3.0, 5.0), (4.0, 4.0)] {
            regression.add(x, y);
        }
        let line = regression.line().unwrap();
        assert!((line.slope - 0.8).abs() < 1e-12 && (line.intercept - 1.5).abs() < 1e-12);
    }

    #[test]
    fn nothing_one_point_and_one_moment_make_no_line() {
        let mut regression = Regression::default();
        assert_eq!(regression.line(), None);
        regression.add(1.0, 5.0);
        assert_eq!(regression.line(), None);
        regression.add(1.0, 7.0);
        assert_eq!(regression.line(), None);
    }

    #[test]
    fn the_line_of_a_log_axis_is_that_of_the_powers() {
        let mut fits = Fits::default();
        for second in 0..5 {
            fits.add(
                second * 1_000_000_000,
                second,
                10_u64.pow(3 + second as u32),
            );
        }
        let lines = fits.lines();
        let line = lines.time_log.unwrap();
        assert!((line.slope - 1.0).abs() < 1e-12 && (line.intercept - 3.0).abs() < 1e-12);
        assert_eq!(lines.time_log, lines.number_log);
        assert_ne!(lines.time_log, lines.time_linear);
    }
}
