//! Times in power-of-ten buckets, with mean, percentiles and maximum.

use connect_trace_common::{BUCKETS, power_of_ten};
use hdrhistogram::Histogram;

/// Digits that a percentile is exact to.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The percentiles' longest time, an hour: the histogram's memory grows with it. No connect() takes
/// that long in the kernel, and mean and maximum are exact beyond it.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A distribution of times.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: [u64; BUCKETS],
    histogram: Histogram<u64>,
    count: u64,
    total_ns: u128,
    max_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            histogram: Histogram::new(SIGNIFICANT_DIGITS)
                .expect("three digits are within what a histogram can have"),
            count: 0,
            total_ns: 0,
            max_ns: 0,
        }
    }
}

impl Latency {
    /// Adds one time.
    pub fn record(&mut self, ns: u64) {
        self.buckets[power_of_ten(ns)] += 1;
        // Cannot fail: the histogram grows by itself up to that time.
        let _ = self.histogram.record(ns.min(LONGEST_NS));
        self.count += 1;
        self.total_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Number of times by power of ten; see [`power_of_ten`].
    #[must_use]
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// Number of times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean in nanoseconds, exact; `None` where there is no time.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total_ns as f64 / self.count as f64)
    }

    /// The time that a share of all (0 to 1) does not exceed, in nanoseconds, to three digits; `None`
    /// where there is no time.
    #[must_use]
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        (self.count > 0).then(|| self.histogram.value_at_quantile(share).min(self.max_ns))
    }

    /// Longest time in nanoseconds, exact; `None` where there is no time.
    #[must_use]
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_mean_and_no_percentile() {
        let latency = Latency::default();
        assert_eq!((latency.count(), latency.mean_ns()), (0, None));
        assert_eq!((latency.quantile_ns(0.5), latency.max_ns()), (None, None));
    }

    #[test]
    fn mean_and_maximum_are_exact_and_percentiles_to_three_digits() {
        let mut latency = Latency::default();
        for ns in 1..=1_000_000 {
            latency.record(ns);
        }
        assert_eq!(latency.mean_ns(), Some(500_000.5));
        assert_eq!(latency.max_ns(), Some(1_000_000));
        for (share, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let found = latency.quantile_ns(share).unwrap() as f64;
            assert!(
                (found / exact - 1.0).abs() < 1e-3,
                "{share}: {found}, not {exact}"
            );
        }
        assert_eq!(
            latency.buckets()[..7],
            [9, 90, 900, 9_000, 90_000, 900_000, 1]
        );
    }

    #[test]
    fn the_longest_of_times_are_no_panic() {
        let mut latency = Latency::default();
        latency.record(0);
        latency.record(u64::MAX);
        assert_eq!(latency.max_ns(), Some(u64::MAX));
        assert_eq!(latency.count(), 2);
    }
}
