//! Times counted in the buckets of a histogram of the crate hdrhistogram: counting is all that happens for each
//! connect(). The histogram itself, which keeps sums and limits of its own, is made when a percentile is needed.

use hdrhistogram::Histogram;

/// Counts of times, by the buckets of a histogram. The memory grows with the longest time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Counts {
    /// Decimal digits to which the histogram is exact.
    digits: u8,
    /// From 2^`bits` on, each power of two has 2^`bits` buckets; below, each time has its own.
    bits: u32,
    counts: Vec<u64>,
}

impl Counts {
    /// Creates empty counts for a histogram that is exact to `digits` decimal digits, 1 to 5.
    pub(super) fn new(digits: u8) -> Self {
        // The formula by which `hdrhistogram::Histogram::new_with_bounds` chooses its
        // `sub_bucket_half_count_magnitude`.
        let distinct = 2 * 10_u64.pow(digits.into());
        Self {
            digits,
            bits: distinct.next_power_of_two().ilog2() - 1,
            counts: Vec::new(),
        }
    }

    /// Adds a time.
    pub(super) fn add(&mut self, ns: u64) {
        self.add_to(self.index(ns), 1);
    }

    fn add_to(&mut self, index: usize, more: u64) {
        match self.counts.get_mut(index) {
            Some(count) => *count += more,
            None => self.add_longest(index, more),
        }
    }

    #[cold]
    fn add_longest(&mut self, index: usize, more: u64) {
        self.counts.resize(index + 1, 0);
        self.counts[index] = more;
    }

    /// Adds other counts, which must not be coarser: each of their buckets then lies within one of these.
    pub(super) fn merge(&mut self, others: &Self) {
        for (index, &count) in others.counts.iter().enumerate() {
            if count > 0 {
                self.add_to(self.index(others.longest(index)), count);
            }
        }
    }

    /// Returns the histogram of the times. Times beyond the histogram's maximum of 292 years count as that maximum.
    pub(super) fn histogram(&self) -> Histogram<u64> {
        const LONGEST: u64 = i64::MAX as u64;
        let longest = self.longest(self.counts.len()).clamp(2, LONGEST);
        let mut histogram = Histogram::new_with_max(longest, self.digits)
            .expect("the digits are 1 to 5 and the longest is twice the shortest");
        for (index, &count) in self.counts.iter().enumerate() {
            if count > 0 {
                histogram.saturating_record_n(self.longest(index).min(longest), count);
            }
        }
        histogram
    }

    fn index(&self, ns: u64) -> usize {
        let shift = (ns | 1 << self.bits).ilog2() - self.bits;
        ((u64::from(shift) << self.bits) + (ns >> shift)) as usize
    }

    /// Returns the longest time of a bucket.
    fn longest(&self, index: usize) -> u64 {
        let index = index as u64;
        let shift = (index >> self.bits).saturating_sub(1);
        let next = index - (shift << self.bits) + 1;
        u64::try_from(u128::from(next) << shift).map_or(u64::MAX, |next| next - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn each_time_is_in_a_bucket_that_ends_before_the_next_begins() {
        for digits in [3, 1] {
            let counts = Counts::new(digits);
            let edges = (0..64).map(|power| 1_u64 << power);
            for ns in edges.flat_map(|edge| [edge - 1, edge, edge + edge / 3, u64::MAX]) {
                let longest = counts.longest(counts.index(ns));
                assert!(
                    longest >= ns && longest - ns <= ns >> counts.bits,
                    "{ns} {longest}"
                );
                if let Some(next) = longest.checked_add(1) {
                    assert_eq!(counts.index(next), counts.index(ns) + 1, "{ns}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_histogram_is_that_of_the_times(times in proptest::collection::vec(any::<u64>(), 1..200), scale in 0..60_u32) {
            for digits in [3, 1] {
                let mut counts = Counts::new(digits);
                let mut histogram = Histogram::<u64>::new(digits).unwrap();
                for ns in times.iter().map(|ns| ns >> 3 >> scale) {
                    counts.add(ns);
                    histogram.record(ns).unwrap();
                }
                let made = counts.histogram();
                for share in [0.0, 0.1, 0.5, 0.9, 0.99, 1.0] {
                    let ns = histogram.value_at_quantile(share);
                    prop_assert_eq!(made.value_at_quantile(share), ns);
                    prop_assert_eq!(made.count_between(0, ns), histogram.count_between(0, ns));
                }
            }
        }
    }
}
