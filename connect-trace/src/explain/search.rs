//! The search of `__inet_hash_connect` through a range of ports, from every start that it can have.

use serde::Serialize;

use crate::connect::{SearchRange, scan::Order};

/// The state of a port for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Free for this destination.
    Free,
    /// In TIME_WAIT for this destination; the kernel reuses it.
    TimeWaitReused,
    /// In TIME_WAIT for this destination; the kernel refuses it.
    TimeWait,
    /// Used by a connection to this destination.
    Taken,
    /// Bound, by a listener for example: skipped for every destination.
    Bound,
    /// In net.ipv4.ip_local_reserved_ports: skipped for every destination.
    Reserved,
}

impl State {
    /// All states.
    pub(super) const ALL: [Self; 6] = [
        Self::Free,
        Self::TimeWaitReused,
        Self::TimeWait,
        Self::Taken,
        Self::Bound,
        Self::Reserved,
    ];

    /// Returns whether a search ends at such a port.
    pub(super) fn is_found(self) -> bool {
        matches!(self, Self::Free | Self::TimeWaitReused)
    }

    /// Returns the name in text.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::TimeWaitReused => "TIME_WAIT, reused",
            Self::TimeWait => "TIME_WAIT, refused",
            Self::Taken => "taken",
            Self::Bound => "bound",
            Self::Reserved => "reserved",
        }
    }
}

/// A range with the states of its ports.
#[derive(Clone, Debug)]
pub(super) struct Search {
    range: SearchRange,
    order: Order,
    /// The states of all ports, from the lowest.
    states: Vec<State>,
}

/// The end of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Number of ports that the search went through, including the one that it found.
    pub(super) scanned: u32,
    /// The port and the number of its pass, from 0; `None` if there is none, and connect() fails.
    pub(super) found: Option<(u16, u32)>,
}

/// Neighbours in a pass with the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) pass: u32,
    pub(super) state: State,
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) ports: u32,
}

impl Search {
    /// Creates the search through a range. Returns `None` if the range is upside down.
    pub(super) fn new(range: SearchRange, state: impl Fn(u16) -> State) -> Option<Self> {
        Some(Self {
            range,
            order: Order::of(range)?,
            states: (range.ports.low..=range.ports.high).map(state).collect(),
        })
    }

    pub(super) fn range(&self) -> SearchRange {
        self.range
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// Returns the state of a port of the range.
    pub(super) fn state(&self, port: u16) -> State {
        self.states[usize::from(port - self.range.ports.low)]
    }

    /// Returns the ports of a pass, from the lowest.
    pub(super) fn ports(&self, pass: u32) -> impl Iterator<Item = u16> {
        (self.range.ports.low..=self.range.ports.high)
            .skip(pass as usize)
            .step_by(usize::from(self.range.by_parity) + 1)
    }

    /// Returns the ports of a run from [`runs`](Self::runs).
    pub(super) fn ports_of(&self, run: Run) -> impl Iterator<Item = u16> {
        (run.first..=run.last).step_by(usize::from(self.range.by_parity) + 1)
    }

    /// Returns the end of the search from every start, in the order of the starts.
    pub(super) fn ends(&self) -> Vec<End> {
        let starts = self.order.starts();
        let mut ends = vec![
            End {
                scanned: starts * self.order.passes(),
                found: None,
            };
            starts as usize
        ];
        for pass in (0..self.order.passes()).rev() {
            self.add_pass(pass, &mut ends);
        }
        ends
    }

    /// Puts the port that a pass finds, from each start, in the place of the one of a later pass.
    fn add_pass(&self, pass: u32, ends: &mut [End]) {
        let starts = self.order.starts();
        let is_found = |port| self.state(port).is_found();
        // The next port that is found, and its distance from start 0; a search goes on behind the end of the range.
        let mut next: Option<(u32, u16)> = None;
        for at in (0..2 * starts).rev() {
            let port = if at < starts {
                self.order.port(at, pass, 0)
            } else {
                self.order.port(starts - 1, pass, at + 1 - starts)
            };
            if is_found(port) {
                next = Some((at, port));
            }
            if let (true, Some((found, port))) = (at < starts, next)
                && found < at + starts
            {
                ends[at as usize] = End {
                    scanned: pass * starts + found - at + 1,
                    found: Some((port, pass)),
                };
            }
        }
    }

    /// Returns the runs of a search from a start, up to the one with the port that it finds.
    pub(super) fn walk(&self, start: u32) -> Vec<Run> {
        let starts = self.order.starts();
        let ports = |pass| (0..starts).map(move |nth| (pass, self.order.port(start, pass, nth)));
        let mut is_over = false;
        let tried = (0..self.order.passes())
            .flat_map(ports)
            .map_while(|(pass, port)| {
                let before = is_over;
                is_over |= self.state(port).is_found();
                (!before).then_some((pass, port))
            });
        self.runs_of(tried)
    }

    /// Returns the runs of all ports of a pass, from the lowest port.
    pub(super) fn runs(&self, pass: u32) -> Vec<Run> {
        self.runs_of(self.ports(pass).map(|port| (pass, port)))
    }

    fn runs_of(&self, ports: impl Iterator<Item = (u32, u16)>) -> Vec<Run> {
        let step = u16::from(self.range.by_parity) + 1;
        let mut runs: Vec<Run> = Vec::new();
        for (pass, port) in ports {
            let state = self.state(port);
            match runs.last_mut() {
                Some(run)
                    if (run.pass, run.state) == (pass, state)
                        && run.last.checked_add(step) == Some(port) =>
                {
                    run.last = port;
                    run.ports += 1;
                }
                _ => runs.push(Run {
                    pass,
                    state,
                    first: port,
                    last: port,
                    ports: 1,
                }),
            }
        }
        runs
    }
}

/// Figures of the searches from all starts, which are equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Number of starts.
    pub(super) starts: u32,
    /// Shares of the starts whose search finds a port in the first or only pass, and in the second pass.
    pub(super) first_pass: f64,
    pub(super) second_pass: f64,
    /// Share of the starts whose search finds none.
    pub(super) none: f64,
    /// Number of ports that a search goes through.
    pub(super) scanned_mean: f64,
    pub(super) scanned_median: u32,
    pub(super) scanned_most: u32,
}

impl Figures {
    pub(super) fn of(ends: &[End]) -> Self {
        let share = |of: &dyn Fn(&End) -> bool| {
            ends.iter().filter(|end| of(end)).count() as f64 / ends.len() as f64
        };
        let pass = |end: &End| end.found.map(|(_, pass)| pass);
        let mut scanned: Vec<u32> = ends.iter().map(|end| end.scanned).collect();
        scanned.sort_unstable();
        let sum: f64 = scanned.iter().map(|&scanned| f64::from(scanned)).sum();
        Self {
            starts: ends.len() as u32,
            first_pass: share(&|end| pass(end) == Some(0)),
            second_pass: share(&|end| pass(end) == Some(1)),
            none: share(&|end| end.found.is_none()),
            scanned_mean: sum / scanned.len() as f64,
            scanned_median: scanned[(scanned.len() - 1) / 2],
            scanned_most: scanned[scanned.len() - 1],
        }
    }

    /// Returns the first start whose search has the median length.
    pub(super) fn typical(&self, ends: &[End]) -> u32 {
        let median = |end: &End| end.scanned == self.scanned_median;
        ends.iter().position(median).unwrap_or(0) as u32
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::connect::PortRange;

    /// Creates a search through ports with these states.
    pub(in crate::explain) fn search(low: u16, by_parity: bool, states: &[State]) -> Search {
        let range = SearchRange {
            ports: PortRange {
                low,
                high: low + states.len() as u16 - 1,
            },
            by_parity,
        };
        Search::new(range, |port| states[usize::from(port - low)]).unwrap()
    }

    /// Goes through the ports one by one.
    fn naive(search: &Search, start: u32) -> End {
        let order = search.order;
        let mut scanned = 0;
        for pass in 0..order.passes() {
            for nth in 0..order.starts() {
                scanned += 1;
                let port = order.port(start, pass, nth);
                if search.state(port).is_found() {
                    let found = Some((port, pass));
                    return End { scanned, found };
                }
            }
        }
        End {
            scanned,
            found: None,
        }
    }

    fn states() -> impl Strategy<Value = Vec<State>> {
        // Mostly taken, or hardly any second pass would begin.
        let taken = proptest::sample::select(&[State::Taken, State::Bound, State::Reserved]);
        let state = prop_oneof![6 => taken, 1 => proptest::sample::select(&State::ALL)];
        proptest::collection::vec(state, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn every_start_ends_where_the_ports_one_by_one_do(
            low in 1..60_000_u16, by_parity: bool, states in states(),
        ) {
            let search = search(low, by_parity, &states);
            let ends = search.ends();
            for (start, end) in ends.iter().enumerate() {
                prop_assert_eq!(*end, naive(&search, start as u32), "start {}", start);
                let walk = search.walk(start as u32);
                let walked: u32 = walk.iter().map(|run| run.ports).sum();
                prop_assert_eq!(walked, end.scanned);
                let last = walk.last().unwrap();
                let found = last.state.is_found().then_some((last.last, last.pass));
                prop_assert_eq!(found, end.found);
            }
            let figures = Figures::of(&ends);
            prop_assert!((figures.first_pass + figures.second_pass + figures.none - 1.0).abs() < 1e-9);
            prop_assert!(figures.scanned_median <= figures.scanned_most);
            let typical = figures.typical(&ends) as usize;
            prop_assert_eq!(ends[typical].scanned, figures.scanned_median);
        }

        #[test]
        fn the_runs_of_all_passes_have_each_port_once(
            low in 1..60_000_u16, by_parity: bool, states in states(),
        ) {
            let search = search(low, by_parity, &states);
            let runs = |pass| search.runs(pass);
            let all: u32 = (0..=u32::from(by_parity)).flat_map(runs).map(|run| run.ports).sum();
            prop_assert_eq!(all as usize, states.len());
        }
    }

    #[test]
    fn an_exhausted_first_pass_is_scanned_whole_from_every_start() {
        use State::{Free, Taken};
        // Even ports are taken, odd ones free.
        let half = search(20_000, true, &[Taken, Free].repeat(50));
        let figures = Figures::of(&half.ends());
        assert_eq!(figures.starts, 50);
        assert_eq!((figures.first_pass, figures.second_pass), (0.0, 1.0));
        assert_eq!((figures.scanned_median, figures.scanned_most), (51, 51));
        // Without parity every second port is found at once.
        let figures = Figures::of(&search(20_000, false, &[Taken, Free].repeat(50)).ends());
        assert_eq!(figures.first_pass, 1.0);
        assert_eq!(figures.scanned_mean, 1.5);
    }

    #[test]
    fn a_walk_tells_the_ports_in_the_order_of_the_search() {
        use State::{Bound, Free, Taken};
        let search = search(
            20_000,
            true,
            &[Taken, Taken, Bound, Free, Taken, Taken, Taken, Taken],
        );
        let told: Vec<_> = search
            .walk(2)
            .iter()
            .map(|run| (run.pass, run.first, run.last))
            .collect();
        assert_eq!(
            told,
            [
                (0, 20_004, 20_006),
                (0, 20_000, 20_000),
                (0, 20_002, 20_002),
                (1, 20_005, 20_007),
                (1, 20_001, 20_001),
                (1, 20_003, 20_003),
            ]
        );
    }
}
