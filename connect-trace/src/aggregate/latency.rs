//! Times in power-of-ten buckets, with mean, percentiles and maximum.

use connect_trace_common::{BUCKETS, Times, buckets::lower_edge_ns};

use super::histogram::Histogram;

/// How exact percentiles are, which decides the memory of a [`Latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// To a thousandth, in about 100 KiB.
    Fine,
    /// To a sixteenth, in 2 to 4 KiB, for thousands of groups.
    Coarse,
}

impl Precision {
    /// How much larger a percentile may be shown than it is, as a share of it.
    #[must_use]
    pub fn error(self) -> f64 {
        match self {
            Self::Fine => 0.001,
            Self::Coarse => 0.0625,
        }
    }

    /// Returns the binary digits of that share.
    fn bits(self) -> u32 {
        match self {
            Self::Fine => 10,
            Self::Coarse => 4,
        }
    }
}

/// A distribution of times.
#[derive(Clone, Debug)]
pub struct Latency {
    buckets: [u64; BUCKETS],
    precision: Precision,
    /// The times that percentiles are taken from.
    times: Histogram,
    count: u64,
    /// Times of all these that are not among `times`.
    only_in_sums: u64,
    total_ns: u128,
    max_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new(Precision::Fine)
    }
}

impl Latency {
    /// No time yet.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        Self {
            buckets: [0; BUCKETS],
            precision,
            times: Histogram::new(precision.bits()),
            count: 0,
            only_in_sums: 0,
            total_ns: 0,
            max_ns: 0,
        }
    }

    /// Adds one time.
    pub fn record(&mut self, ns: u64) {
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.total_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
        self.times.add(ns, 1);
    }

    /// Adds the times of another one. If that is the coarser, there are no percentiles any more, as after
    /// [`merge_fast`](Self::merge_fast).
    pub fn merge(&mut self, other: &Self) {
        if (self.precision, other.precision) == (Precision::Fine, Precision::Coarse) {
            self.only_in_sums += other.count;
        } else {
            self.only_in_sums += other.only_in_sums;
            self.times.merge(&other.times);
        }
        self.merge_sums(other.count, other.total_ns, other.max_ns, &other.buckets);
    }

    /// Adds times of which the kernel only kept sums. From then on there are no percentiles.
    pub fn merge_fast(&mut self, fast: &Times) {
        let total_ns = u128::from(fast.total_ns);
        self.only_in_sums += fast.count;
        self.merge_sums(fast.count, total_ns, fast.max_ns, &fast.buckets);
    }

    fn merge_sums(&mut self, count: u64, total_ns: u128, max_ns: u64, buckets: &[u64; BUCKETS]) {
        self.count += count;
        self.total_ns += total_ns;
        self.max_ns = self.max_ns.max(max_ns);
        for (all, more) in self.buckets.iter_mut().zip(buckets) {
            *all += more;
        }
    }

    /// Number of times by power of ten; see [`connect_trace_common::power_of_ten`].
    #[must_use]
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// Number of times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of the times in nanoseconds, exact.
    #[must_use]
    pub fn total_ns(&self) -> u128 {
        self.total_ns
    }

    /// Mean in nanoseconds, exact; `None` where there is no time.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total_ns as f64 / self.count as f64)
    }

    /// The time that a share of all (0 to 1) does not exceed, in nanoseconds, by [`Precision`]; `None`
    /// where there is no time, or where some are only known as sums.
    #[must_use]
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let wanted = (share * self.count as f64).ceil() as u64;
        let ns = self.times.reached_at(wanted.clamp(1, self.count.max(1)));
        (self.count > 0 && self.only_in_sums == 0).then(|| ns.min(self.max_ns))
    }

    /// How many times are above what [`quantile_ns`](Self::quantile_ns) gave; none where it gave nothing.
    #[must_use]
    pub fn count_above(&self, quantile_ns: u64) -> u64 {
        self.count - self.only_in_sums - self.times.count_up_to(quantile_ns)
    }

    /// Whether there are times, and percentiles of them.
    #[must_use]
    pub fn has_percentiles(&self) -> bool {
        self.quantile_ns(0.5).is_some()
    }

    /// Longest time in nanoseconds, exact; `None` where there is no time.
    #[must_use]
    pub fn max_ns(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_ns)
    }
}

/// Returns what [`connect_trace_common::power_of_ten`] does, without the loop that only the verifier needs.
fn bucket(ns: u64) -> usize {
    const EDGES: [u64; BUCKETS] = {
        let mut edges = [0; BUCKETS];
        let mut bucket = 0;
        while bucket < BUCKETS {
            edges[bucket] = lower_edge_ns(bucket);
            bucket += 1;
        }
        edges
    };
    // 1,233 / 4,096 is the common logarithm of 2: it is this bucket or the one before.
    let bits = u64::BITS - ns.leading_zeros();
    let last = ((bits as usize * 1_233) >> 12).min(BUCKETS - 1);
    last - usize::from(ns < EDGES[last])
}

#[cfg(test)]
mod tests {
    use connect_trace_common::power_of_ten;

    use super::*;

    #[test]
    fn buckets_are_those_of_the_kernel_at_their_exact_edges() {
        for exponent in 0..20 {
            let edge = 10_u64.pow(exponent);
            for ns in [edge - 1, edge, edge + 1] {
                assert_eq!(bucket(ns), power_of_ten(ns), "{ns}");
            }
        }
        assert_eq!(bucket(u64::MAX), power_of_ten(u64::MAX));
    }

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

    #[test]
    fn coarse_percentiles_are_exact_to_a_sixteenth() {
        let mut latency = Latency::new(Precision::Coarse);
        for ns in 1..=1_000_000 {
            latency.record(ns);
        }
        for (share, exact) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let error = latency.quantile_ns(share).unwrap() as f64 / exact - 1.0;
            assert!(
                (0.0..=Precision::Coarse.error()).contains(&error),
                "{share}: {error}"
            );
            let found = latency.quantile_ns(share).unwrap();
            assert_eq!(latency.count_above(found), 1_000_000 - found);
        }
    }

    #[test]
    fn two_together_are_as_if_all_had_come_to_one() {
        for precision in [Precision::Fine, Precision::Coarse] {
            let [mut all, mut one, mut other] = [(); 3].map(|()| Latency::new(precision));
            for ns in (0..100_000).step_by(7) {
                all.record(ns);
                if ns % 2 == 0 { &mut one } else { &mut other }.record(ns);
            }
            one.merge(&other);
            assert_eq!(one.buckets(), all.buckets());
            assert_eq!((one.count(), one.mean_ns()), (all.count(), all.mean_ns()));
            assert_eq!(one.max_ns(), all.max_ns());
            assert_eq!(one.quantile_ns(0.9), all.quantile_ns(0.9));
            assert!(one.has_percentiles());
        }
    }

    #[test]
    fn sums_from_the_kernel_are_in_all_but_the_percentiles() {
        let mut latency = Latency::default();
        latency.record(5_000);
        latency.merge_fast(&Times::default());
        assert_eq!(latency.quantile_ns(0.5), Some(5_000), "nothing was added");
        let mut fast = Times {
            count: 3,
            total_ns: 3_000,
            max_ns: 1_500,
            ..Times::default()
        };
        fast.buckets[2] = 2;
        fast.buckets[3] = 1;
        latency.merge_fast(&fast);
        assert_eq!((latency.count(), latency.mean_ns()), (4, Some(2_000.0)));
        assert_eq!(latency.max_ns(), Some(5_000));
        assert_eq!(latency.buckets()[2..4], [2, 2]);
        assert_eq!(latency.quantile_ns(0.5), None);
    }
}
