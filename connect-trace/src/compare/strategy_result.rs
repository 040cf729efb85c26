//! Results of the runs of one strategy.

use crate::load::{Done, occupancy::Curve, strategy::Strategy};

/// The runs of a strategy.
#[derive(Clone, Debug)]
pub struct StrategyResult {
    /// The strategy.
    pub strategy: Strategy,
    /// Runs, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// Occupancy curve of all runs.
    pub curve: Curve,
}

/// Results of one run. Times are those of a whole connection: connect(), and everything that the strategy
/// does before it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Number of this repeat, from 1.
    pub repeat: u32,
    /// Number of attempts.
    pub attempts: u64,
    /// Number of failed attempts.
    pub errors: u64,
    /// Duration of the run in seconds.
    pub total_s: f64,
    /// Successful connections per second.
    pub per_second: f64,
    /// Mean of the successful attempts, in nanoseconds.
    pub mean_ns: Option<f64>,
    /// Mean of the attempts with an even port, in nanoseconds.
    pub even_ns: Option<f64>,
    /// Mean of the attempts with an odd port, in nanoseconds.
    pub odd_ns: Option<f64>,
    /// 99th percentile, in nanoseconds.
    pub p99_ns: Option<f64>,
    /// Mean number of candidate ports that a connect() scanned, according to a trace.
    pub scanned: Option<f64>,
    /// Number of attempts that ended before the first port of the other parity.
    pub first_pass: Option<u32>,
    /// Mean number of ports that were tried for a connection.
    pub tries: f64,
    /// Reasons to doubt the figures.
    pub warnings: Vec<String>,
}

/// Lowest, mean and highest value of a figure over the repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Lowest.
    pub low: f64,
    /// Mean.
    pub mean: f64,
    /// Highest.
    pub high: f64,
}

impl Spread {
    /// Returns the spread of the values; `None` if there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { low, mean, high })
    }

    /// Half of the distance between lowest and highest.
    #[must_use]
    pub fn half(self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

impl StrategyResult {
    /// Creates a result without runs.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            samples: Vec::new(),
            curve: Curve::default(),
        }
    }

    /// Adds a run.
    pub fn add(&mut self, done: &Done, scanned: Option<f64>) {
        let figures = &done.figures;
        let all = figures.successful().whole;
        self.samples.push(Sample {
            repeat: done.plan.repeat,
            attempts: figures.attempts,
            errors: figures.errors(),
            total_s: done.seconds(),
            per_second: done.per_second(),
            mean_ns: all.mean_ns(),
            even_ns: figures.even.whole.mean_ns(),
            odd_ns: figures.odd.whole.mean_ns(),
            p99_ns: all.quantile_ns(0.99).map(|ns| ns as f64),
            scanned,
            first_pass: done.first_pass(),
            tries: figures.tries as f64 / figures.attempts.max(1) as f64,
            warnings: done.warnings(),
        });
        self.curve.merge(&figures.curve);
    }

    /// Returns the spread of a figure over the runs that have it.
    #[must_use]
    pub fn spread(&self, of: fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(of))
    }

    /// Share of the attempts that failed, 0 to 1.
    #[must_use]
    pub fn error_share(&self) -> f64 {
        let sum = |of: fn(&Sample) -> u64| self.samples.iter().map(of).sum::<u64>();
        sum(|run| run.errors) as f64 / sum(|run| run.attempts).max(1) as f64
    }

    /// Mean time of a connection over all runs, nanoseconds.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        self.spread(|run| run.mean_ns).map(|spread| spread.mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_lowest_mean_and_highest() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.mean, spread.high), (1.0, 2.0, 3.0));
        assert_eq!(spread.half(), 1.0);
        assert_eq!(Spread::of([]), None);
    }
}
