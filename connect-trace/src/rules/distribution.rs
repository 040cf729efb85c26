//! The values of a field, of which some are not known: an aggregate of them lies within bounds.

use hdrhistogram::Histogram;

use super::field::{Aggregate, Bounds};

/// Decimal digits to which percentiles are exact, as those of a report.
const DIGITS: u8 = 3;

/// Values, in bounded memory.
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    /// Number of values.
    count: u64,
    /// Number of calls that are not known to have a value; part of `count`.
    maybe: u64,
    /// True if there may be any number of further values.
    has_more: bool,
    lowest: Bounds,
    highest: Bounds,
    total: Bounds,
    lows: Histogram<u64>,
    highs: Histogram<u64>,
    /// Number of values without an upper bound, which are not in `highs`.
    endless: u64,
}

impl Distribution {
    pub(super) fn new() -> Self {
        let histogram = || Histogram::new(DIGITS).expect("the digits are 1 to 5");
        Self {
            count: 0,
            maybe: 0,
            has_more: false,
            lowest: Bounds::exactly(f64::INFINITY),
            highest: Bounds::exactly(0.0),
            total: Bounds::exactly(0.0),
            lows: histogram(),
            highs: histogram(),
            endless: 0,
        }
    }

    /// Adds values.
    pub(super) fn add(&mut self, value: Bounds, count: u64) {
        if count == 0 {
            return;
        }
        self.count += count;
        self.lowest.low = self.lowest.low.min(value.low);
        self.lowest.high = self.lowest.high.min(value.high);
        self.highest.low = self.highest.low.max(value.low);
        self.highest.high = self.highest.high.max(value.high);
        self.total.low += value.low * count as f64;
        self.total.high += value.high * count as f64;
        count_in(&mut self.lows, value.low, count);
        if value.high.is_finite() {
            count_in(&mut self.highs, value.high, count);
        } else {
            self.endless += count;
        }
    }

    /// Adds calls that may have a value, of which nothing is known.
    pub(super) fn add_unknown(&mut self, count: u64) {
        self.maybe += count;
        self.add(Bounds::UNKNOWN, count);
    }

    /// Adds an unknown number of calls that may have a value.
    pub(super) fn add_any_number(&mut self) {
        self.has_more = true;
    }

    /// Returns an aggregate; `None` if there are no values to take it from.
    pub(super) fn aggregate(&self, aggregate: Aggregate) -> Option<Bounds> {
        if aggregate == Aggregate::Count {
            let high = if self.has_more {
                f64::INFINITY
            } else {
                self.count as f64
            };
            return Some(Bounds {
                low: (self.count - self.maybe) as f64,
                high,
            });
        }
        if self.count == 0 {
            return self.has_more.then_some(Bounds::UNKNOWN);
        }
        let open = |bounds: Bounds| match self.has_more {
            false => bounds,
            true => match aggregate {
                Aggregate::Min => Bounds { low: 0.0, ..bounds },
                Aggregate::Max => Bounds {
                    high: f64::INFINITY,
                    ..bounds
                },
                _ => Bounds::UNKNOWN,
            },
        };
        let count = self.count as f64;
        Some(open(match aggregate {
            Aggregate::Count => unreachable!("a count needs no values"),
            Aggregate::Min => self.lowest,
            Aggregate::Max => self.highest,
            Aggregate::Mean => Bounds {
                low: self.total.low / count,
                high: self.total.high / count,
            },
            Aggregate::Quantile(share) => self.quantile(share),
        }))
    }

    fn quantile(&self, share: f64) -> Bounds {
        let low = self.lows.value_at_quantile(share) as f64;
        let finite = self.count - self.endless;
        // The values without a bound are the highest.
        let rank = (share * self.count as f64).ceil();
        let high = if rank > finite as f64 {
            f64::INFINITY
        } else {
            let of_finite = rank / finite as f64;
            (self.highs.value_at_quantile(of_finite) as f64).min(self.highest.high)
        };
        Bounds {
            low: low.min(self.highest.low),
            high,
        }
    }
}

/// Adds values to a histogram, which grows with them.
fn count_in(histogram: &mut Histogram<u64>, value: f64, count: u64) {
    /// The largest value of any histogram.
    const LARGEST: u64 = i64::MAX as u64;
    let recorded = histogram.record_n((value as u64).min(LARGEST), count);
    recorded.expect("a histogram grows up to the largest value");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Aggregate; 5] = [
        Aggregate::Count,
        Aggregate::Min,
        Aggregate::Max,
        Aggregate::Mean,
        Aggregate::Quantile(0.9),
    ];

    fn of(values: impl IntoIterator<Item = Bounds>) -> Distribution {
        let mut distribution = Distribution::new();
        for value in values {
            distribution.add(value, 1);
        }
        distribution
    }

    #[test]
    fn aggregates_of_known_values_are_exact() {
        let values = of((1..=1_000).map(|value| Bounds::exactly(value.into())));
        let expected = [1_000.0, 1.0, 1_000.0, 500.5, 900.0];
        for (aggregate, expected) in ALL.into_iter().zip(expected) {
            let found = values.aggregate(aggregate);
            assert_eq!(found, Some(Bounds::exactly(expected)), "{aggregate:?}");
        }
    }

    #[test]
    fn nothing_has_a_count_and_no_other_aggregate() {
        let mut nothing = Distribution::new();
        let found = ALL.map(|aggregate| nothing.aggregate(aggregate));
        assert_eq!(found[0], Some(Bounds::exactly(0.0)));
        assert_eq!(found[1..], [None; 4]);
        nothing.add_any_number();
        let found = ALL.map(|aggregate| nothing.aggregate(aggregate));
        assert_eq!(found, [Some(Bounds::UNKNOWN); 5]);
    }

    #[test]
    fn a_few_unknown_values_leave_a_percentile_bounded() {
        let mut values = of((1..=1_000).map(|value| Bounds::exactly(value.into())));
        values.add_unknown(10);
        let p90 = values.aggregate(Aggregate::Quantile(0.9)).unwrap();
        assert_eq!((p90.low, p90.high), (899.0, 909.0));
        let p999 = values.aggregate(Aggregate::Quantile(0.999)).unwrap();
        assert_eq!(p999.high, f64::INFINITY);
        let max = values.aggregate(Aggregate::Max).unwrap();
        assert_eq!((max.low, max.high), (1_000.0, f64::INFINITY));
        values.add_any_number();
        let max = values.aggregate(Aggregate::Max).unwrap();
        assert_eq!((max.low, max.high), (1_000.0, f64::INFINITY));
        let p90 = values.aggregate(Aggregate::Quantile(0.9));
        assert_eq!(p90, Some(Bounds::UNKNOWN));
    }

    proptest! {
        #[test]
        fn the_true_aggregate_lies_within_the_bounds(
            // Small numbers, which the histogram holds exactly.
            values in proptest::collection::vec((0..1_000_u32, 0..500_u32, 0..500_u32, any::<bool>()), 1..50),
            lost in proptest::collection::vec(0..2_000_u32, 0..5),
        ) {
            let truth = values.iter().map(|&(value, ..)| value).chain(lost.iter().copied());
            let truth = of(truth.map(|value| Bounds::exactly(value.into())));
            let mut known = of(values.iter().map(|&(value, below, above, is_endless)| Bounds {
                low: value.saturating_sub(below).into(),
                high: if is_endless { f64::INFINITY } else { (value + above).into() },
            }));
            known.add_unknown(lost.len() as u64);
            for aggregate in ALL {
                let exact = truth.aggregate(aggregate).unwrap();
                let bounds = known.aggregate(aggregate).unwrap();
                prop_assert!(
                    bounds.low <= exact.low && exact.high <= bounds.high,
                    "{:?}: {:?} is not within {:?}", aggregate, exact, bounds
                );
            }
        }
    }
}
