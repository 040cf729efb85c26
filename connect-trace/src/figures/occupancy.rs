//! The occupancy curve: the time of a connection by the share of the range that is in use already.

use super::point::{Kind, Point};

/// Number of steps that the shares from 0 to 1 are divided into.
const STEPS: usize = 50;

/// Times of the connections that were requested at each share.
#[derive(Clone, Debug)]
pub(super) struct Occupancy {
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    count: u64,
    total_ns: u128,
}

impl Default for Occupancy {
    fn default() -> Self {
        Self {
            steps: vec![Step::default(); STEPS],
        }
    }
}

impl Occupancy {
    /// Adds a connection if it succeeded and its share is known.
    pub(super) fn add(&mut self, point: &Point) {
        let Some(share) = point.share.filter(|_| point.kind != Kind::Failed) else {
            return;
        };
        let step = ((share * STEPS as f64) as usize).min(STEPS - 1);
        self.steps[step].count += 1;
        self.steps[step].total_ns += u128::from(point.whole_ns);
    }

    /// Adds the times of another run of the same strategy.
    pub(super) fn merge(&mut self, other: &Self) {
        for (all, more) in self.steps.iter_mut().zip(&other.steps) {
            all.count += more.count;
            all.total_ns += more.total_ns;
        }
    }

    /// Returns the middle of each step that has connections, 0 to 1, and their mean time in nanoseconds.
    pub(super) fn means(&self) -> impl Iterator<Item = (f64, f64)> {
        self.steps.iter().enumerate().filter_map(|(index, step)| {
            let middle = (index as f64 + 0.5) / STEPS as f64;
            (step.count > 0).then(|| (middle, step.total_ns as f64 / step.count as f64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::point;

    #[test]
    fn each_step_has_the_mean_of_its_own_and_failures_are_in_none() {
        let mut occupancy = Occupancy::default();
        for (share, whole_ns, kind) in [
            (Some(0.0), 100, Kind::Even),
            (Some(0.019), 300, Kind::Odd),
            (Some(1.0), 5_000, Kind::Odd),
            (Some(0.5), 7, Kind::Failed),
            (None, 9, Kind::Even),
        ] {
            occupancy.add(&Point {
                share,
                whole_ns,
                kind,
                ..point(0)
            });
        }
        let means: Vec<_> = occupancy.means().collect();
        assert_eq!(means, [(0.01, 200.0), (0.99, 5_000.0)]);
        let mut twice = occupancy.clone();
        twice.merge(&occupancy);
        assert_eq!(twice.means().collect::<Vec<_>>(), means);
    }
}
