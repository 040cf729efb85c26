//! What the runs of one strategy come to.

use crate::load::{Done, occupancy::Curve, strategy::Strategy};

/// The runs of a strategy.
#[derive(Clone, Debug)]
pub struct StrategyResult {
    /// The strategy.
    pub strategy: Strategy,
    /// Its runs, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// Of all its runs.
    pub curve: Curve,
}

/// One run. Times are those of a whole connection: connect(), and what the strategy does before it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which repeat, from 1.
    pub repeat: u32,
    /// Attempts.
    pub attempts: u64,
    /// Those that failed.
    pub errors: u64,
    /// Time of the run, seconds.
    pub total_s: f64,
    /// Connections a second.
    pub per_second: f64,
    /// Mean of those that succeeded, nanoseconds.
    pub mean_ns: Option<f64>,
    /// Mean of those with an even port.
    pub even_ns: Option<f64>,
    /// Mean of those with an odd port.
    pub odd_ns: Option<f64>,
    /// What 99 % do not exceed.
    pub p99_ns: Option<f64>,
    /// Candidate ports that a connect() scanned in the mean, by a trace.
    pub scanned: Option<f64>,
    /// How many attempts ended before the first port of the other parity came.
    pub first_pass: Option<u32>,
    /// Ports that were tried for a connection in the mean.
    pub tries: f64,
    /// What makes it doubtful.
    pub warnings: Vec<String>,
}

/// A figure over the repeats.
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
    /// Of these; none where there is nothing.
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
    /// No run yet.
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

    /// A figure of the runs that have it.
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
