//! How long a connection takes by how much of the range is in use.

use super::attempt::Attempt;
use crate::connect::PortRange;

/// Steps up to the whole range.
pub const STEPS: usize = 20;

/// The steps, from an empty range on. More open connections than the range has ports, which several addresses
/// allow, have steps beyond.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Each a twentieth of the range's ports.
    pub steps: Vec<Step>,
}

/// Attempts that ended while so many connections were open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Those that succeeded.
    pub count: u64,
    /// Their time in all.
    pub total_ns: u64,
    /// Those that failed.
    pub errors: u64,
}

impl Step {
    /// Mean time of those that succeeded, in nanoseconds.
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

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        let steps = self.steps.len().max(other.steps.len());
        self.steps.resize(steps, Step::default());
        for (step, &more) in self.steps.iter_mut().zip(&other.steps) {
            *step = step.with(more);
        }
    }

    /// Two steps as one.
    #[must_use]
    pub fn pairs(&self) -> Vec<Step> {
        let pairs = self.steps.chunks(2);
        pairs
            .map(|pair| pair.iter().copied().fold(Step::default(), Step::with))
            .collect()
    }

    /// Share of the range in use, 0 to 1, from which on a connection takes more than `times` of what it
    /// takes in the first tenth, for good.
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

    /// Share of the range in use at which the first of more than one in a thousand failed.
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
