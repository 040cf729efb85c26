//! Decides which of many connections are drawn: every failure, the slowest and the fastest of each part of the time,
//! and a random sample of the rest that fills the remaining room. Memory does not grow with their number.

use super::point::{KINDS, Kind, Point};
use crate::stats::{Latency, Precision};

/// Maximum number of parts that the time of a run is divided into.
pub(super) const PARTS: usize = 256;

/// First width of a part; it is doubled as the run goes on.
const NARROWEST_NS: u64 = 1 << 16;

/// Maximum share of the connections that count as outliers.
const OUTLIERS: f64 = 0.01;

/// Result of the first reading: a distribution for each kind in each part of the time.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Number of times that [`NARROWEST_NS`] was doubled.
    doublings: u32,
    parts: Vec<[Option<Box<Part>>; KINDS.len()]>,
    counts: [u64; KINDS.len()],
}

#[derive(Debug)]
struct Part {
    latency: Latency,
    min_ns: u64,
}

impl Parts {
    /// Adds a connection.
    pub(super) fn add(&mut self, point: &Point) {
        self.counts[point.kind.index()] += 1;
        while self.index(point.at_ns) >= PARTS {
            self.double();
        }
        let index = self.index(point.at_ns);
        if self.parts.len() <= index {
            self.parts.resize_with(index + 1, Default::default);
        }
        let part = self.parts[index][point.kind.index()].get_or_insert_with(|| {
            Box::new(Part {
                latency: Latency::new(Precision::Coarse),
                min_ns: u64::MAX,
            })
        });
        part.latency.record(point.latency_ns);
        part.min_ns = part.min_ns.min(point.latency_ns);
    }

    fn index(&self, at_ns: u64) -> usize {
        let width = NARROWEST_NS << self.doublings;
        usize::try_from(at_ns / width).unwrap_or(usize::MAX)
    }

    /// Merges each two neighbouring parts into one.
    fn double(&mut self) {
        self.doublings += 1;
        let mut old = std::mem::take(&mut self.parts).into_iter();
        while let Some(mut first) = old.next() {
            for (all, more) in first.iter_mut().zip(old.next().unwrap_or_default()) {
                match (all.as_mut(), more) {
                    (Some(all), Some(more)) => {
                        all.latency.merge(&more.latency);
                        all.min_ns = all.min_ns.min(more.min_ns);
                    }
                    (None, more) => *all = more,
                    (Some(_), None) => {}
                }
            }
            self.parts.push(first);
        }
    }
}

/// Decides in the second reading which connections are drawn.
#[derive(Debug)]
pub(super) struct Thinner {
    doublings: u32,
    limits: Vec<[Limits; KINDS.len()]>,
    /// `None` if all are drawn.
    rule: Option<Rule>,
    of: u64,
    drawn: u64,
    outliers: u64,
    /// Connections yet to come that do not have to be drawn, and how many of them still have room.
    left: u64,
    room: u64,
    random: u64,
}

/// Connections of a kind in a part of the time that are drawn regardless of the room.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    /// Maximum number of such connections.
    count: u64,
    above_ns: u64,
    /// Removed when a connection with this latency was drawn.
    min_ns: Option<u64>,
    max_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Connections above this quantile of their part and kind are outliers.
    quantile: f64,
    every_failure: bool,
}

/// Description of the downsampling, for the page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Downsampling {
    /// Number of connections.
    pub of: u64,
    /// Number of connections that are drawn.
    pub drawn: u64,
    /// Number of drawn connections that are outliers or failures.
    pub outliers: u64,
    /// Connections above this quantile of their part of the time and kind are all drawn.
    pub quantile: f64,
    /// True if every failure is drawn.
    pub every_failure: bool,
}

impl Thinner {
    /// Draws `most` connections at most, except for the fastest and slowest of each part of the time.
    pub(super) fn new(parts: &Parts, most: u64) -> Self {
        let of: u64 = parts.counts.iter().sum();
        let failures = parts.counts[Kind::Failed.index()];
        let every_failure = failures <= most / 2;
        let share = OUTLIERS.min(most as f64 / 4.0 / of as f64);
        let rule = (of > most).then_some(Rule {
            quantile: 1.0 - share,
            every_failure,
        });
        let limits: Vec<[Limits; KINDS.len()]> = match rule {
            None => Vec::new(),
            Some(rule) => parts.parts.iter().map(|part| limits(part, rule)).collect(),
        };
        let kept_failures = if every_failure { failures } else { 0 };
        // Extremes may be counted twice, which only leaves room for fewer others.
        let outliers: u64 = limits.iter().flatten().map(|limits| limits.count).sum();
        Self {
            doublings: parts.doublings,
            limits,
            rule,
            of,
            drawn: 0,
            outliers: 0,
            left: of - kept_failures,
            room: most.saturating_sub(outliers),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Returns true if a connection is drawn. Must be called once for each, in the order of the first reading.
    pub(super) fn draws(&mut self, point: &Point) -> bool {
        let Some(rule) = self.rule else {
            self.drawn += 1;
            return true;
        };
        let stands_out = self.stands_out(point, rule);
        let draws = stands_out || {
            // Knuth's selection sampling: it selects exactly as many as there is room for.
            let chosen = self.next_random() % self.left.max(1) < self.room;
            self.room -= u64::from(chosen);
            chosen
        };
        if point.kind != Kind::Failed || !rule.every_failure {
            self.left = self.left.saturating_sub(1);
        }
        self.drawn += u64::from(draws);
        self.outliers += u64::from(stands_out);
        draws
    }

    fn stands_out(&mut self, point: &Point, rule: Rule) -> bool {
        if point.kind == Kind::Failed && rule.every_failure {
            return true;
        }
        let part = point.at_ns / (NARROWEST_NS << self.doublings);
        let Some(part) = usize::try_from(part)
            .ok()
            .and_then(|part| self.limits.get_mut(part))
        else {
            return true;
        };
        let limits = &mut part[point.kind.index()];
        let is_min = limits
            .min_ns
            .take_if(|ns| *ns == point.latency_ns)
            .is_some();
        let is_max = limits
            .max_ns
            .take_if(|ns| *ns == point.latency_ns)
            .is_some();
        is_min || is_max || point.latency_ns > limits.above_ns
    }

    /// Xorshift generator: selects the same connections in every run.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Returns the downsampling; `None` if all connections are drawn.
    pub(super) fn thinning(&self) -> Option<Downsampling> {
        self.rule.map(|rule| Downsampling {
            of: self.of,
            drawn: self.drawn,
            outliers: self.outliers,
            quantile: rule.quantile,
            every_failure: rule.every_failure,
        })
    }
}

fn limits(part: &[Option<Box<Part>>; KINDS.len()], rule: Rule) -> [Limits; KINDS.len()] {
    std::array::from_fn(|kind| {
        let Some(part) = &part[kind] else {
            return Limits::default();
        };
        let above_ns = part.latency.quantile_ns(rule.quantile).unwrap_or(0);
        let all = kind == Kind::Failed.index() && rule.every_failure;
        Limits {
            count: match all {
                true => part.latency.count(),
                false => part.latency.count_above(above_ns) + 2,
            },
            above_ns,
            min_ns: Some(part.min_ns),
            max_ns: part.latency.max_ns(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::figures::tests::point;

    /// Returns the points that a second reading draws, and the downsampling.
    fn thinned(points: &[Point], most: u64) -> (HashSet<u64>, Option<Downsampling>) {
        let mut parts = Parts::default();
        points.iter().for_each(|point| parts.add(point));
        let mut thinner = Thinner::new(&parts, most);
        let drawn = points.iter().filter(|point| thinner.draws(point));
        let drawn = drawn.map(|point| point.number).collect();
        (drawn, thinner.thinning())
    }

    /// Latencies of 20 us, except for one in 5,000 of 3 ms; one in 7,001 fails fast.
    fn mixed(count: u64) -> Vec<Point> {
        (0..count)
            .map(|number| Point {
                at_ns: number * 1_000_003,
                latency_ns: match number {
                    _ if number % 5_000 == 17 => 3_000_000,
                    _ => 20_000 + number * 7_919 % 1_000,
                },
                kind: match number {
                    _ if number % 7_001 == 3 => Kind::Failed,
                    _ if number % 3 == 0 => Kind::Odd,
                    _ => Kind::Even,
                },
                ..point(number)
            })
            .collect()
    }

    #[test]
    fn every_outlier_and_every_failure_is_drawn() {
        let points = mixed(500_000);
        let (drawn, thinning) = thinned(&points, 20_000);
        let thinning = thinning.unwrap();
        for point in &points {
            let stands_out = point.latency_ns > 1_000_000 || point.kind == Kind::Failed;
            assert!(!stands_out || drawn.contains(&point.number), "{point:?}");
        }
        assert_eq!(thinning.of, 500_000);
        assert_eq!(thinning.drawn, drawn.len() as u64);
        assert!(thinning.drawn <= 20_000, "{thinning:?}");
        assert!(thinning.drawn > 15_000, "the room is used: {thinning:?}");
        assert!(thinning.every_failure && thinning.quantile >= 0.99);
        // The sample is spread evenly over the time.
        let halves = drawn.iter().filter(|&&number| number < 250_000).count();
        assert!((drawn.len() * 45 / 100..drawn.len() * 55 / 100).contains(&halves));
    }

    #[test]
    fn the_fastest_and_the_slowest_of_each_moment_are_drawn_even_without_room() {
        let points = mixed(100_000);
        let mut parts = Parts::default();
        points.iter().for_each(|point| parts.add(point));
        let (drawn, _) = thinned(&points, 10);
        let width = NARROWEST_NS << parts.doublings;
        for part in 0..=points[points.len() - 1].at_ns / width {
            for kind in [Kind::Even, Kind::Odd] {
                let latency = |point: &&Point| point.latency_ns;
                let here = || {
                    points
                        .iter()
                        .filter(|point| point.at_ns / width == part && point.kind == kind)
                };
                for extreme in [here().min_by_key(latency), here().max_by_key(latency)] {
                    let ns = extreme.unwrap().latency_ns;
                    let one = here().any(|p| p.latency_ns == ns && drawn.contains(&p.number));
                    assert!(one, "{ns} ns of part {part}");
                }
            }
        }
    }

    #[test]
    fn all_are_drawn_where_there_is_room() {
        let points = mixed(1_000);
        let (drawn, thinning) = thinned(&points, 1_000);
        assert_eq!((drawn.len(), thinning), (1_000, None));
        let (drawn, thinning) = thinned(&[], 1_000);
        assert_eq!((drawn.len(), thinning), (0, None));
    }

    #[test]
    fn failures_are_thinned_where_they_are_more_than_half_of_the_room() {
        let points: Vec<Point> = (0..100_000)
            .map(|number| Point {
                at_ns: number * 1_000,
                latency_ns: if number == 777 { 9_000_000 } else { 2_000_000 },
                kind: Kind::Failed,
                ..point(number)
            })
            .collect();
        let (drawn, thinning) = thinned(&points, 5_000);
        assert!(!thinning.unwrap().every_failure);
        assert!(drawn.len() <= 5_000, "{}", drawn.len());
        assert!(drawn.contains(&777), "the slowest is drawn");
    }

    #[test]
    fn memory_does_not_grow_with_the_time() {
        let mut parts = Parts::default();
        for number in 0..10_000 {
            let at_ns = number * (u64::MAX / 10_000);
            parts.add(&Point {
                at_ns,
                ..point(number)
            });
        }
        parts.add(&Point {
            at_ns: u64::MAX,
            ..point(0)
        });
        assert!(parts.parts.len() <= PARTS);
        let all: u64 = parts
            .parts
            .iter()
            .flatten()
            .flatten()
            .map(|p| p.latency.count())
            .sum();
        assert_eq!(all, 10_001);
    }
}
