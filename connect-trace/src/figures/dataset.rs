//! The connections that one scatter shows: a recording, or a run of a workload.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use anyhow::Result;
use connect_trace_common::{BUCKETS, power_of_ten};

use super::{
    downsample::{Downsampling, Parts, Thinner},
    occupancy,
    point::Point,
    regression::{Fits, Lines},
};
use crate::connect::{Cause, Outcome};
use crate::{
    connect::Comm,
    stats::{BelowMinimum, Latency},
};

/// Source of the connections of a dataset. It is read twice, so that memory does not grow with their number.
pub(super) trait Connects {
    /// Passes each connection to `take`, in the same order every time.
    ///
    /// # Errors
    /// If the connections can no longer be read.
    fn each(&mut self, take: &mut dyn FnMut(&Point)) -> Result<()>;
}

/// Information that is shown when the mouse is over a point, besides its own numbers; points share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Detail {
    pub outcome: Outcome,
    pub errno: i32,
    pub source: Option<IpAddr>,
    pub comm: Option<Comm>,
}

/// A connect() that is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub at_ns: u64,
    pub latency_ns: u64,
    pub number: u32,
    /// 0 for none.
    pub port: u16,
    /// Index into [`Dataset::details`].
    pub detail: u16,
}

/// The connections of one scatter: statistics of all, and the ones that are drawn.
#[derive(Debug, Default)]
pub(super) struct Dataset {
    /// Name from the data: may contain any characters.
    pub name: String,
    /// Facts about the recording or the run: a label and its value.
    pub facts: Vec<(&'static str, String)>,
    /// Notes that a reader must know.
    pub notes: Vec<String>,
    /// Duration of the recording or the run in nanoseconds; absent if it is not known.
    pub total_ns: Option<u64>,
    /// Times by [`Outcome::index`].
    pub by_outcome: [Latency; Outcome::ALL.len()],
    /// Failures by errno; those beyond [`MOST_ERRNOS`] are under 0.
    pub errnos: BTreeMap<i32, u64>,
    /// Times of the successful connections, with everything that the strategy does.
    pub whole: Latency,
    fits: Fits,
    /// Occupancy curve, by the share of the range in use.
    pub occupancy: occupancy::Curve,
    /// Connections that are drawn, by time.
    pub points: Vec<Drawn>,
    /// Details that the points refer to.
    pub details: Vec<Detail>,
    /// Downsampling; `None` if all connections are drawn.
    pub thinning: Option<Downsampling>,
    /// Nanoseconds of each cause in the calls of each power of ten of their time, if they are known.
    pub causes_ns: Option<[ByCause; BUCKETS]>,
    /// Calls below --min-latency, which were only counted: they are in no point.
    pub fast: u64,
}

/// Nanoseconds of each cause, in the order of [`Cause::ALL`].
pub(super) type ByCause = [u64; Cause::ALL.len()];

/// Maximum number of errnos that are kept apart.
const MOST_ERRNOS: usize = 32;

/// Maximum number of details; a connect() beyond them shows its errno, but not its source and thread.
const MOST_DETAILS: usize = 60_000;

impl Dataset {
    /// Reads the connections twice: first for statistics of all, then for the ones that are drawn, about
    /// `most` of them.
    pub(super) fn read(name: String, connects: &mut impl Connects, most: u64) -> Result<Self> {
        let mut set = Self {
            name,
            ..Self::default()
        };
        let mut parts = Parts::default();
        connects.each(&mut |point| {
            parts.add(point);
            set.count(point);
        })?;
        let mut thinner = Thinner::new(&parts, most);
        let mut details = Details::default();
        // A recording that is still being written may have more connections by now.
        let mut left = set.connects();
        connects.each(&mut |point| {
            let draws = left > 0 && thinner.draws(point);
            left = left.saturating_sub(1);
            if draws {
                set.points.push(Drawn {
                    at_ns: point.at_ns,
                    latency_ns: point.latency_ns,
                    number: u32::try_from(point.number).unwrap_or(u32::MAX),
                    port: point.port.unwrap_or(0),
                    detail: details.index(point),
                });
            }
        })?;
        set.points.sort_by_key(|point| point.at_ns);
        set.details = details.all;
        set.thinning = thinner.thinning();
        Ok(set)
    }

    fn count(&mut self, point: &Point) {
        self.by_outcome[point.outcome.index()].record(point.latency_ns);
        if point.outcome == Outcome::Failed {
            let known = self.errnos.len() < MOST_ERRNOS || self.errnos.contains_key(&point.errno);
            let errno = if known { point.errno } else { 0 };
            *self.errnos.entry(errno).or_default() += 1;
        } else {
            self.whole.record(point.whole_ns);
            self.fits.add(point.at_ns, point.number, point.latency_ns);
        }
        occupancy::add(&mut self.occupancy, point);
        if let Some(causes_ns) = point.causes_ns {
            let buckets = self.causes_ns.get_or_insert_default();
            let bucket = &mut buckets[power_of_ten(point.latency_ns)];
            for (sum, ns) in bucket.iter_mut().zip(causes_ns) {
                *sum = sum.saturating_add(ns);
            }
        }
    }

    /// Adds the kernel's sums of calls below `--min-latency`.
    pub(super) fn merge_fast(&mut self, fast: &BelowMinimum) {
        let groups = [&fast.even, &fast.odd, &fast.bound, &fast.failed];
        for (all, fast) in self.by_outcome.iter_mut().zip(groups) {
            all.merge_fast(&fast.connect);
        }
        self.fast = fast.count();
    }

    /// Number of all connections: those that were read, and those that were only counted.
    pub(super) fn connects(&self) -> u64 {
        self.by_outcome.iter().map(Latency::count).sum()
    }

    /// Number of connections of an outcome.
    pub(super) fn count_of(&self, outcome: Outcome) -> u64 {
        self.by_outcome[outcome.index()].count()
    }

    /// Times of all successful connections.
    pub(super) fn successes(&self) -> Latency {
        let mut all = Latency::default();
        for outcome in [Outcome::Even, Outcome::Odd, Outcome::Bound] {
            all.merge(&self.by_outcome[outcome.index()]);
        }
        all
    }

    /// Regression lines of all successful connections.
    pub(super) fn lines(&self) -> Lines {
        self.fits.lines()
    }
}

/// The details of the points so far.
#[derive(Default)]
struct Details {
    all: Vec<Detail>,
    places: HashMap<Detail, u16>,
}

impl Details {
    fn index(&mut self, point: &Point) -> u16 {
        let mut detail = Detail {
            outcome: point.outcome,
            errno: point.errno,
            source: point.source,
            comm: point.comm,
        };
        if self.all.len() >= MOST_DETAILS && !self.places.contains_key(&detail) {
            detail.source = None;
            detail.comm = None;
            if self.all.len() > MOST_DETAILS + MOST_ERRNOS && !self.places.contains_key(&detail) {
                // There are too many errnos: only the outcome is kept, and there is room for every outcome.
                detail.errno = i32::from(point.outcome == Outcome::Failed);
            }
        }
        let all = &mut self.all;
        *self.places.entry(detail).or_insert_with(|| {
            let place = u16::try_from(all.len()).unwrap_or(u16::MAX);
            all.push(detail);
            place
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::point;

    struct Given(Vec<Point>);

    impl Connects for Given {
        fn each(&mut self, take: &mut dyn FnMut(&Point)) -> Result<()> {
            self.0.iter().for_each(take);
            Ok(())
        }
    }

    #[test]
    fn what_is_drawn_is_in_the_order_of_time_and_keeps_its_values() {
        let later = Point {
            at_ns: 900,
            port: Some(9_025),
            outcome: Outcome::Odd,
            ..point(0)
        };
        let earlier = Point {
            at_ns: 100,
            ..point(1)
        };
        let set = Dataset::read("a".to_owned(), &mut Given(vec![later, earlier]), 10).unwrap();
        let drawn: Vec<_> = set
            .points
            .iter()
            .map(|p| (p.at_ns, p.number, p.port))
            .collect();
        assert_eq!(drawn, [(100, 1, earlier.port.unwrap()), (900, 0, 9_025)]);
        assert_eq!(
            set.details[usize::from(set.points[1].detail)].outcome,
            Outcome::Odd
        );
        assert_eq!(set.connects(), 2);
    }

    #[test]
    fn details_are_bounded_whatever_comes() {
        let points = (0..100_000_u32)
            .map(|number| Point {
                source: Some(IpAddr::from(number.to_be_bytes())),
                errno: (number % 1_000) as i32,
                outcome: Outcome::Failed,
                ..point(number.into())
            })
            .collect();
        let set = Dataset::read("a".to_owned(), &mut Given(points), 1_000_000).unwrap();
        assert_eq!(set.points.len(), 100_000);
        assert!(
            set.details.len() < usize::from(u16::MAX),
            "{}",
            set.details.len()
        );
        assert!(set.errnos.len() <= MOST_ERRNOS + 1);
        assert_eq!(set.errnos.values().sum::<u64>(), 100_000);
    }

    #[test]
    fn nothing_is_a_set_too() {
        let set = Dataset::read("a".to_owned(), &mut Given(Vec::new()), 10).unwrap();
        assert_eq!((set.connects(), set.points.len()), (0, 0));
        assert_eq!(set.lines().time_log, None);
    }
}
