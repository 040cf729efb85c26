//! Number of ports that searches went through.

/// Sums of [`crate::connect::Connect::scanned`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Number of searches whose length is known.
    pub count: u64,
    /// Number of ports that these searches went through.
    pub total: u64,
    /// Number of ports of the longest search; 0 without any.
    pub max: u32,
}

impl Scanned {
    /// Adds one search.
    pub fn record(&mut self, ports: u32) {
        self.count += 1;
        self.total += u64::from(ports);
        self.max = self.max.max(ports);
    }

    /// Adds the searches of another sum.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// Returns the mean number of ports per search; `None` without any.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total as f64 / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_both() {
        let mut some = Scanned::default();
        assert_eq!(some.mean(), None);
        some.record(1);
        some.record(4);
        let mut all = some;
        all.merge(&Scanned::default());
        assert_eq!(all, some);
        all.merge(&some);
        assert_eq!((all.count, all.total, all.max), (4, 10, 4));
        assert_eq!(all.mean(), Some(2.5));
    }
}
