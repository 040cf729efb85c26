//! The time that long searches take for each candidate port: the comparison of watched and unwatched searches shows how
//! much longer watching makes them.

use crate::connect::Connect;

/// Fewest candidate ports of a long search: in a shorter one, the fixed part of the time weighs too much.
const LONG: u32 = 100;

/// Searches that went through at least a hundred candidate ports, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Candidate ports of all these searches.
    pub ports: u64,
    /// Time of all these searches.
    pub ns: u64,
}

impl Candidates {
    /// Returns whether a connect() had a long search, or one of unknown length.
    #[must_use]
    pub fn may_have(connect: &Connect) -> bool {
        connect.search_ns.is_some() && connect.scanned.is_none_or(|ports| ports >= LONG)
    }

    /// Adds the search of a connect(), if it was long and its length is known.
    pub fn record(&mut self, connect: &Connect) {
        if let (Some(ports @ LONG..), Some(ns)) = (connect.scanned, connect.search_ns) {
            self.ports += u64::from(ports);
            self.ns = self.ns.saturating_add(ns);
        }
    }

    /// Adds the searches of another sum.
    pub fn merge(&mut self, other: &Self) {
        self.ports += other.ports;
        self.ns = self.ns.saturating_add(other.ns);
    }

    /// Returns the mean time for a candidate port in nanoseconds; `None` without a long search.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.ports > 0).then(|| self.ns as f64 / self.ports as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    #[test]
    fn long_searches_alone_are_counted() {
        let mut candidates = Candidates::default();
        let search = |scanned, search_ns| Connect {
            scanned,
            search_ns,
            ..connect_from(20_000)
        };
        candidates.record(&search(Some(99), Some(1_000_000)));
        candidates.record(&search(None, Some(1_000_000)));
        candidates.record(&search(Some(1_000), None));
        assert_eq!(candidates.mean_ns(), None);
        assert!(!Candidates::may_have(&search(Some(99), Some(1))));
        assert!(!Candidates::may_have(&search(None, None)));
        assert!(Candidates::may_have(&search(None, Some(1))));
        assert!(Candidates::may_have(&search(Some(100), Some(1))));
        candidates.record(&search(Some(100), Some(50_000)));
        let mut sum = candidates;
        sum.merge(&candidates);
        assert_eq!(
            sum,
            Candidates {
                ports: 200,
                ns: 100_000
            }
        );
        assert_eq!(sum.mean_ns(), Some(500.0));
    }
}
