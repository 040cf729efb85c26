//! The occupancy curve: time of a connection by the share of the range that is in use.

use super::attempt::Attempt;
use crate::connect::PortRange;

/// Number of steps that the whole range is divided into.
pub(crate) const STEPS: usize = 20;

/// The steps, beginning with an empty range. If several addresses allow more open connections than the range
/// has ports, there are further steps.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Each step is a twentieth of the range's ports.
    pub steps: Vec<Step>,
}

/// Attempts that ended while the share of ports in use was within one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Number of successful attempts.
    pub count: u64,
    /// Total time of the successful attempts.
    pub total_ns: u64,
    /// Number of failed attempts.
    pub errors: u64,
}

impl Step {
    /// Mean time of the successful attempts, in nanoseconds.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total_ns as f64 / self.count as f64)
    }

    fn with(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            total_ns: self.total_ns + other.total_ns,
            errors: self.errors + other.errors,
        }
    }
}

impl Curve {
    /// Adds an attempt.
    pub fn record(&mut self, attempt: &Attempt, range: PortRange) {
        let step = (attempt.held as usize * STEPS) / range.ports() as usize;
        if self.steps.len() <= step {
            self.steps.resize(step + 1, Step::default());
        }
        let step = &mut self.steps[step];
        if attempt.errno == 0 {
            step.count += 1;
            step.total_ns += attempt.whole_ns();
        } else {
            step.errors += 1;
        }
    }

    /// Adds the curve of another run.
    pub fn merge(&mut self, other: &Self) {
        let steps = self.steps.len().max(other.steps.len());
        self.steps.resize(steps, Step::default());
        for (step, &more) in self.steps.iter_mut().zip(&other.steps) {
            *step = step.with(more);
        }
    }

    /// Merges each two neighbouring steps into one.
    #[must_use]
    pub fn pairs(&self) -> Vec<Step> {
        let pairs = self.steps.chunks(2);
        pairs
            .map(|pair| pair.iter().copied().fold(Step::default(), Step::with))
            .collect()
    }

    /// Share of the range in use, 0 to 1, from which on a connection permanently takes more than `times` the
    /// mean time of the first tenth.
    #[must_use]
    pub fn rises_by(&self, times: f64) -> Option<f64> {
        let first = self.pairs().first()?.mean_ns()?;
        let is_slow = |step: &Step| step.mean_ns().map(|mean| mean > first * times);
        let found = self
            .steps
            .iter()
            .rposition(|step| is_slow(step) == Some(false))?
            + 1;
        let rises = self.steps[found..]
            .iter()
            .any(|step| is_slow(step) == Some(true));
        rises.then(|| found as f64 / STEPS as f64)
    }

    /// Share of the range in use of the first step in which more than one attempt in a thousand failed.
    #[must_use]
    pub fn fails_from(&self) -> Option<f64> {
        let found = self
            .steps
            .iter()
            .position(|step| step.errors * 1000 > step.count + step.errors)?;
        Some(found as f64 / STEPS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::figures::tests::attempt;

    const RANGE: PortRange = PortRange {
        low: 20_000,
        high: 20_199,
    };

    #[test]
    fn attempts_are_in_the_step_of_what_was_open_when_they_ended() {
        let mut curve = Curve::default();
        for number in 0..200 {
            let slow = if number < 100 { 1 } else { 10 };
            let attempt = Attempt {
                connect_ns: 9_000 * slow,
                ..attempt(number, (number < 190).then_some(20_000))
            };
            curve.record(&attempt, RANGE);
        }
        assert_eq!(curve.steps.len(), 20);
        assert_eq!((curve.steps[0].count, curve.steps[19].errors), (10, 10));
        assert_eq!(curve.steps[0].mean_ns(), Some(10_000.0));
        assert_eq!(curve.steps[19].mean_ns(), None);
        assert_eq!(curve.pairs().len(), 10);
        assert_eq!(curve.pairs()[5].count, 20);
        assert_eq!(curve.rises_by(2.0), Some(0.5));
        assert_eq!(curve.rises_by(20.0), None);
        assert_eq!(curve.fails_from(), Some(0.95));
        let mut both = Curve::default();
        both.merge(&curve);
        both.merge(&curve);
        assert_eq!((both.steps[0].count, both.steps[19].errors), (20, 20));
    }

    #[test]
    fn more_connections_than_ports_have_steps_beyond() {
        let mut curve = Curve::default();
        curve.record(&attempt(399, Some(20_000)), RANGE);
        assert_eq!((curve.steps.len(), curve.steps[39].count), (40, 1));
        assert_eq!(Curve::default().rises_by(2.0), None);
    }
}
