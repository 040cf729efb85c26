//! Statistics of the attempts of one run.

use std::collections::BTreeMap;

use super::{attempt::Attempt, occupancy::Curve};
use crate::connect::PortRange;
use crate::stats::Latency;

/// Times of a group of attempts.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Time in the decisive connect().
    pub connect: Latency,
    /// Time in everything else that the strategy does.
    pub prepare: Latency,
    /// Sum of both: the time that a program waits for its connection.
    pub whole: Latency,
}

impl Times {
    fn record(&mut self, attempt: &Attempt) {
        self.connect.record(attempt.connect_ns);
        self.prepare.record(attempt.prepare_ns);
        self.whole.record(attempt.whole_ns());
    }

    /// Adds the times of another group.
    pub fn merge(&mut self, other: &Self) {
        self.connect.merge(&other.connect);
        self.prepare.merge(&other.prepare);
        self.whole.merge(&other.whole);
    }
}

/// Statistics of the attempts of one run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Number of attempts.
    pub attempts: u64,
    /// Successful attempts with an even port.
    pub even: Times,
    /// Successful attempts with an odd port.
    pub odd: Times,
    /// Failed attempts, by errno.
    pub failed: BTreeMap<i32, Times>,
    /// Number of attempts that ended before the first port of the other parity than the range's lowest: at
    /// that point the default search has used up its first pass. `None` if no port had the other parity.
    pub first_pass: Option<u32>,
    /// Number of ports that were tried.
    pub tries: u64,
    /// Maximum number of ports that were tried for one attempt.
    pub most_tries: u32,
    /// Maximum number of connections that were open at once.
    pub most_held: u32,
    /// Times by the number of open connections.
    pub curve: Curve,
}

impl Figures {
    /// Adds an attempt of a run with this range of ports; the attempts come in the order of their numbers.
    pub fn record(&mut self, attempt: &Attempt, range: PortRange) {
        self.attempts += 1;
        self.tries += u64::from(attempt.tries);
        self.most_tries = self.most_tries.max(attempt.tries);
        let held = attempt.held + u32::from(attempt.errno == 0);
        self.most_held = self.most_held.max(held);
        self.curve.record(attempt, range);
        let times = match attempt.port {
            Some(port) => {
                if port % 2 != range.low % 2 {
                    self.first_pass.get_or_insert(attempt.number);
                }
                if port % 2 == 0 {
                    &mut self.even
                } else {
                    &mut self.odd
                }
            }
            None => self.failed.entry(attempt.errno).or_default(),
        };
        times.record(attempt);
    }

    /// Number of attempts that failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let failed = self.failed.values();
        failed.map(|times| times.whole.count()).sum()
    }

    /// Number of attempts that succeeded.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.even.whole.count() + self.odd.whole.count()
    }

    /// Times of all successful attempts.
    #[must_use]
    pub fn successful(&self) -> Times {
        let mut all = self.even.clone();
        all.merge(&self.odd);
        all
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A made-up attempt; it failed if `port` is `None`.
    pub(crate) fn attempt(number: u32, port: Option<u16>) -> Attempt {
        Attempt {
            run: 0,
            number,
            thread: 0,
            start_ns: u64::from(number) * 1_000_000,
            prepare_ns: 1_000,
            connect_ns: 20_000,
            tries: 1,
            held: number,
            source: Some([127, 0, 0, 1].into()),
            port,
            errno: if port.is_some() {
                0
            } else {
                libc::EADDRNOTAVAIL
            },
        }
    }

    /// Returns the figures of these attempts.
    pub(crate) fn figures(attempts: &[Attempt], range: PortRange) -> Figures {
        let mut figures = Figures::default();
        for attempt in attempts {
            figures.record(attempt, range);
        }
        figures
    }

    const RANGE: PortRange = PortRange {
        low: 20_000,
        high: 20_003,
    };

    #[test]
    fn even_odd_and_failed_are_apart_and_the_turn_is_found() {
        let ports = [Some(20_002), Some(20_000), Some(20_001), Some(20_003), None];
        let attempts: Vec<Attempt> = (0..).zip(ports).map(|(n, port)| attempt(n, port)).collect();
        let figures = figures(&attempts, RANGE);
        assert_eq!((figures.successes(), figures.errors()), (4, 1));
        assert_eq!(
            (figures.even.whole.count(), figures.odd.whole.count()),
            (2, 2)
        );
        assert_eq!(figures.first_pass, Some(2));
        assert_eq!(
            figures.failed[&libc::EADDRNOTAVAIL].connect.max_ns(),
            Some(20_000)
        );
        assert_eq!(figures.successful().whole.mean_ns(), Some(21_000.0));
        assert_eq!((figures.tries, figures.most_held), (5, 4));
    }

    #[test]
    fn the_first_pass_is_that_of_the_lowest_ports_parity() {
        let odd = PortRange {
            low: 20_001,
            high: 20_004,
        };
        let ports = [20_003, 20_001, 20_004];
        let attempts: Vec<Attempt> = (0..)
            .zip(ports)
            .map(|(number, port)| attempt(number, Some(port)))
            .collect();
        assert_eq!(figures(&attempts, odd).first_pass, Some(2));
        assert_eq!(figures(&attempts[..2], odd).first_pass, None);
    }
}
