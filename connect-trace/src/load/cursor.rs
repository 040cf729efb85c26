//! The ports or windows of a range in a random order, one after the other.

use std::sync::atomic::{AtomicU32, Ordering};

use fastrand::Rng;

/// Ports in a random order. All threads of a process go round it together, so that a port comes again when all others
/// have had their turn.
pub(super) struct Cursor {
    ports: Vec<u16>,
    next: AtomicU32,
}

impl Cursor {
    /// Shuffles the ports.
    pub(super) fn new(mut ports: Vec<u16>, seed: u64) -> Self {
        Rng::with_seed(seed).shuffle(&mut ports);
        Self {
            ports,
            next: AtomicU32::new(0),
        }
    }

    /// Returns the next port; `None` if there is none at all. `failed` is the number of ports that were tried for this
    /// connection before.
    ///
    /// Between two turns of this connection, other threads may take any number of ports, so that a whole round does not
    /// show that no port is free. A second one, of this connection alone, does.
    pub(super) fn next(&self, failed: u32) -> Option<u16> {
        let count = u32::try_from(self.ports.len())
            .ok()
            .filter(|&count| count > 0)?;
        let turn = if failed < count {
            self.next.fetch_add(1, Ordering::Relaxed)
        } else {
            failed
        };
        self.ports.get((turn % count) as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_round_has_every_port_once_in_an_order_of_its_seed() {
        let round = |seed| -> Vec<u16> {
            let cursor = Cursor::new((100..200).collect(), seed);
            (0..100).filter_map(|_| cursor.next(0)).collect()
        };
        assert_eq!(round(1).iter().collect::<BTreeSet<_>>().len(), 100);
        assert_eq!(round(1), round(1));
        assert_ne!(round(1), round(2));
        assert!(Cursor::new(Vec::new(), 1).next(0).is_none());
    }

    #[test]
    fn a_second_round_has_every_port_whatever_other_threads_take() {
        let cursor = Cursor::new((0..10).collect(), 1);
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for failed in 0..20 {
            seen[failed as usize / 10].extend(cursor.next(failed));
            // Another thread that goes on in step with this one.
            cursor.next(0);
        }
        assert_eq!([seen[0].len(), seen[1].len()], [5, 10]);
    }
}
