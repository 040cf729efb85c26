//! The occupancy curve: the time of a connection by the share of the range that is in use already.

use super::point::Point;
use crate::{connect::Outcome, load::occupancy::OccupancyCurve};

/// Number of steps that the shares from 0 to 1 are divided into.
const STEPS: usize = 50;

/// Curve of a run, or of the runs of a strategy.
pub(super) type Curve = OccupancyCurve<STEPS>;

/// Adds a connection to a curve if the connection's share is known.
pub(super) fn add(curve: &mut Curve, point: &Point) {
    if let Some(share) = point.share {
        let step = ((share * STEPS as f64) as usize).min(STEPS - 1);
        let succeeded = point.outcome != Outcome::Failed;
        curve.add(step, succeeded.then_some(point.whole_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::point;

    #[test]
    fn each_step_has_the_mean_of_its_own_and_failures_are_in_none() {
        let mut occupancy = Curve::default();
        for (share, whole_ns, outcome) in [
            (Some(0.0), 100, Outcome::Even),
            (Some(0.019), 300, Outcome::Odd),
            (Some(1.0), 5_000, Outcome::Odd),
            (Some(0.5), 7, Outcome::Failed),
            (None, 9, Outcome::Even),
        ] {
            let point = Point {
                share,
                whole_ns,
                outcome,
                ..point(0)
            };
            add(&mut occupancy, &point);
        }
        let means: Vec<_> = occupancy.means().collect();
        assert_eq!(means, [(0.01, 200.0), (0.99, 5_000.0)]);
        let mut twice = occupancy.clone();
        twice.merge(&occupancy);
        assert_eq!(twice.means().collect::<Vec<_>>(), means);
    }
}
