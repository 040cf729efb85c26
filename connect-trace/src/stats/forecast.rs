//! Forecasts of the end of a route's ports: when the second pass of searches begins, and when connect() finds no port any
//! more. docs/forecast.md derives the model and its bounds.
//!
//! The number of ports that are taken `t` seconds from now is
//!
//! ```text
//! taken + (opens - frees) t - (ports that leave TIME_WAIT within t) - keeps max(0, t - hold)
//! ```
//!
//! with the rates per second at which connections take ports, give them free at their end, and leave them in TIME_WAIT,
//! and with the seconds for which a port in TIME_WAIT cannot be taken. Nothing is estimated of the ports in TIME_WAIT: the
//! end of each is known.

use super::flow::{Changes, SECONDS};

/// Shortest history from which a forecast is made, in seconds.
pub const LEAST_SECONDS: usize = 10;
/// Number of blocks of the history whose means are compared.
const BLOCKS: usize = LEAST_SECONDS;
/// Quantile of Student's distribution for an interval of 95 % by the means of ten blocks (nine degrees of freedom).
const STUDENT: f64 = 2.262;
/// Longest time that is forecast, in seconds.
pub const HORIZON_S: u32 = 3_600;
/// Largest distance from the forecast to either end of its 95 % interval, as a share of the forecast.
const PRECISION: f64 = 0.2;
/// Distance that is precise enough for a forecast of a few seconds.
const PRECISION_S: f64 = 1.0;

/// When the ports of a route end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Length of the history that the rates are means of, in seconds.
    pub seen_s: u32,
    /// Connections that took a port, per second.
    pub opens_per_s: f64,
    /// Connections that ended, per second, whether or not their port became free at once.
    pub closes_per_s: f64,
    /// Beginning of the second pass, in which searches find the ports of the other parity; `None` if searches on this route
    /// have one pass.
    pub second_pass: Option<Outlook>,
    /// Time from which connect() fails with EADDRNOTAVAIL.
    pub exhausted: Outlook,
}

/// The knowledge of a time to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outlook {
    /// The time has come: no port is left.
    Reached,
    /// The time, if the traffic goes on as it is.
    In(Prediction),
    /// No time within the horizon, or none that can be told.
    Unpredicted(Reason),
}

/// A time to come, in seconds from now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// By the mean rates.
    pub seconds: f64,
    /// Lower end of the 95 % interval.
    pub at_least: f64,
    /// Upper end.
    pub at_most: f64,
}

/// The reason why there is no prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Fewer than [`LEAST_SECONDS`] seconds were seen.
    TooShort,
    /// As many ports are given free as are taken, or more.
    NotGrowing,
    /// The time is more than [`HORIZON_S`] seconds away, if it comes at all.
    TooFar,
    /// The rate varies so much that the 95 % interval is too wide.
    Varies,
    /// Some connections of the route are not seen.
    Incomplete,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::TooShort,
        Self::NotGrowing,
        Self::TooFar,
        Self::Varies,
        Self::Incomplete,
    ];

    /// Returns the name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::NotGrowing => "not_growing",
            Self::TooFar => "too_far",
            Self::Varies => "varies",
            Self::Incomplete => "incomplete",
        }
    }

    /// Returns the reason in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::TooShort => "seen for less than 10 s",
            Self::NotGrowing => "not growing",
            Self::TooFar => "not within an hour",
            Self::Varies => "the rate varies",
            Self::Incomplete => "some connections are not seen",
        }
    }
}

impl Outlook {
    /// Returns the prediction, if there is one.
    #[must_use]
    pub fn prediction(self) -> Option<Prediction> {
        match self {
            Self::In(prediction) => Some(prediction),
            Self::Reached | Self::Unpredicted(_) => None,
        }
    }

    /// Returns the predicted seconds: 0 if the time has come.
    #[must_use]
    pub fn seconds(self) -> Option<f64> {
        match self {
            Self::Reached => Some(0.0),
            Self::In(prediction) => Some(prediction.seconds),
            Self::Unpredicted(_) => None,
        }
    }
}

/// The ports of a route as they are now, and their changes until now.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// Parity of the ports that searches try first; `None` if they try all in one pass.
    pub first: Option<u16>,
    /// Numbers of even and of odd ports that a search can find, or could if no connection of the route held them.
    pub capacity: [u32; 2],
    /// Numbers of even and of odd ports that a search cannot take now because of connections of the route.
    pub taken: [u32; 2],
    /// Seconds until a search can take each of the even and of the odd ports in TIME_WAIT that are part of `taken`.
    pub leaving_s: [Vec<f64>; 2],
    /// Seconds for which no search can take a port in TIME_WAIT.
    pub hold_s: f64,
    /// True if searches then take such ports, although the kernel still keeps them.
    pub reuses: bool,
    /// Changes of even and of odd ports in each second of the history, the oldest first.
    pub history: Vec<[Changes; 2]>,
    /// True if some connections of the route have no records.
    pub is_incomplete: bool,
}

impl Situation {
    /// Returns the forecast.
    #[must_use]
    pub fn forecast(&self) -> Forecast {
        let latest = latest(&self.history);
        let per_s = |of: fn(&Changes) -> u32| {
            let all = latest.iter().flatten();
            let sum: u64 = all.map(|changes| u64::from(of(changes))).sum();
            sum as f64 / latest.len().max(1) as f64
        };
        Forecast {
            seen_s: latest.len() as u32,
            opens_per_s: per_s(|changes| changes.opened + changes.reused),
            closes_per_s: per_s(|changes| changes.freed + changes.kept),
            second_pass: self
                .first
                .map(|first| self.outlook(&[usize::from(first % 2)])),
            exhausted: self.outlook(&[0, 1]),
        }
    }

    /// Returns when the ports of these parities end.
    fn outlook(&self, parities: &[usize]) -> Outlook {
        let sum = |of: &[u32; 2]| parities.iter().map(|&parity| of[parity]).sum::<u32>();
        let (capacity, taken) = (sum(&self.capacity), sum(&self.taken));
        if taken >= capacity {
            return Outlook::Reached;
        }
        if self.is_incomplete {
            return Outlook::Unpredicted(Reason::Incomplete);
        }
        if self.history.len() < LEAST_SECONDS {
            return Outlook::Unpredicted(Reason::TooShort);
        }
        let of_parities = |of: fn(&Self, &Changes) -> f64| -> Vec<f64> {
            let second = |changes: &[Changes; 2]| {
                let all = parities.iter().map(|&parity| of(self, &changes[parity]));
                all.sum::<f64>()
            };
            self.history.iter().map(second).collect()
        };
        let mut leaving: Vec<f64> = parities
            .iter()
            .flat_map(|&parity| self.leaving_s[parity].iter().copied())
            .collect();
        leaving.sort_by(f64::total_cmp);
        let course = Course {
            room: f64::from(capacity - taken),
            leaving,
            hold_s: self.hold_s,
        };
        let early = Rate::of(&of_parities(Self::growth));
        let late = Rate::of(&of_parities(|of, changes| {
            of.growth(changes) - f64::from(changes.kept)
        }));
        course.outlook(early, late)
    }

    /// Returns the change in the number of ports that no search can take, before any of the new ports in TIME_WAIT can be
    /// taken.
    fn growth(&self, changes: &Changes) -> f64 {
        let reused = if self.reuses { changes.reused } else { 0 };
        f64::from(changes.opened) + f64::from(reused) - f64::from(changes.freed)
    }
}

/// A mean per second, with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    mean: f64,
    /// Distance to the ends of the 95 % interval, or more if the rate drifts.
    half: f64,
}

impl Rate {
    /// Returns the mean of counts of seconds. Counts of one second and the next are not independent, those of blocks of
    /// seconds more so.
    fn of(seconds: &[f64]) -> Self {
        let latest = latest(seconds);
        let length = latest.len() / BLOCKS;
        let blocks: Vec<f64> = latest.chunks(length).map(mean).collect();
        let mean_of_all = mean(&blocks);
        let squares: f64 = blocks
            .iter()
            .map(|block| (block - mean_of_all).powi(2))
            .sum();
        let count = blocks.len() as f64;
        let error = (squares / (count - 1.0) / count).sqrt();
        let (before, after) = blocks.split_at(blocks.len() / 2);
        Self {
            mean: mean_of_all,
            half: (STUDENT * error).max((mean(after) - mean(before)).abs()),
        }
    }

    fn upper(self) -> f64 {
        self.mean + self.half
    }

    fn lower(self) -> f64 {
        self.mean - self.half
    }
}

/// Returns the latest seconds of a history that make blocks of equal length, if there are enough.
fn latest<T>(seconds: &[T]) -> &[T] {
    match seconds.len() / BLOCKS {
        0 => seconds,
        length => &seconds[seconds.len() - length * BLOCKS..],
    }
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len() as f64
}

/// The course of the ports that are taken from now on.
struct Course {
    /// Ports that are left now.
    room: f64,
    /// Seconds until each port leaves TIME_WAIT, in their order.
    leaving: Vec<f64>,
    hold_s: f64,
}

impl Course {
    /// Returns the time at which no room is left, by a rate before the hold and one after it.
    fn end(&self, early: f64, late: f64) -> Option<f64> {
        let mut left = 0;
        let mut before = 0.0;
        for second in 1..=HORIZON_S {
            let at = f64::from(second);
            while self.leaving.get(left).is_some_and(|&leaves| leaves <= at) {
                left += 1;
            }
            let grown = early * at.min(self.hold_s) + late * (at - self.hold_s).max(0.0);
            let grown = grown - left as f64;
            if grown >= self.room {
                let share = (self.room - before) / (grown - before);
                return Some(at - 1.0 + share.clamp(0.0, 1.0));
            }
            before = grown;
        }
        None
    }

    fn outlook(&self, early: Rate, late: Rate) -> Outlook {
        let Some(seconds) = self.end(early.mean, late.mean) else {
            let reason = match late.lower() > 0.0 {
                true => Reason::TooFar,
                false => Reason::NotGrowing,
            };
            return Outlook::Unpredicted(reason);
        };
        let at_least = self.end(early.upper(), late.upper()).unwrap_or(seconds);
        let at_most = self.end(early.lower(), late.lower());
        let distance = (PRECISION * seconds).max(PRECISION_S);
        match at_most {
            Some(at_most) if (at_most - seconds).max(seconds - at_least) <= distance => {
                Outlook::In(Prediction {
                    seconds,
                    at_least,
                    at_most,
                })
            }
            _ => Outlook::Unpredicted(Reason::Varies),
        }
    }
}

const _: () = assert!(LEAST_SECONDS <= SECONDS);

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws from Poisson's distribution, by the gaps of exponential length within one unit.
    fn poisson(random: &mut fastrand::Rng, mean: f64) -> u32 {
        let mut left = mean;
        let mut count = 0;
        loop {
            left += (1.0 - random.f64()).ln();
            if left < 0.0 {
                return count;
            }
            count += 1;
        }
    }

    fn opened(opened: u32) -> Changes {
        Changes {
            opened,
            ..Changes::default()
        }
    }

    /// Returns a route with one pass, this number of ports left, and this history of even ports.
    fn with_room(room: u32, history: impl IntoIterator<Item = Changes>) -> Situation {
        let history = history.into_iter();
        Situation {
            capacity: [room, 0],
            hold_s: 60.0,
            history: history.map(|even| [even, Changes::default()]).collect(),
            ..Situation::default()
        }
    }

    fn seconds(situation: &Situation) -> Option<f64> {
        let outlook = situation.forecast().exhausted;
        outlook.prediction().map(|prediction| prediction.seconds)
    }

    fn reason(situation: &Situation) -> Option<Reason> {
        match situation.forecast().exhausted {
            Outlook::Unpredicted(reason) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn a_constant_rate_ends_at_its_second() {
        let steady = with_room(5_000, vec![opened(100); 10]);
        assert_eq!(seconds(&steady), Some(50.0));
        let forecast = steady.forecast();
        assert_eq!((forecast.opens_per_s, forecast.seen_s), (100.0, 10));
        assert_eq!(forecast.second_pass, None);
        let prediction = forecast.exhausted.prediction().unwrap();
        assert_eq!((prediction.at_least, prediction.at_most), (50.0, 50.0));
        assert_eq!(
            seconds(&with_room(5_050, vec![opened(100); 60])),
            Some(50.5)
        );
        let short = with_room(5_000, vec![opened(100); 9]);
        assert_eq!(reason(&short), Some(Reason::TooShort));
        let far = with_room(360_001, vec![opened(100); 60]);
        assert_eq!(reason(&far), Some(Reason::TooFar));
        assert_eq!(
            reason(&with_room(10, vec![opened(0); 60])),
            Some(Reason::NotGrowing)
        );
        let sampled = Situation {
            is_incomplete: true,
            ..steady
        };
        assert_eq!(reason(&sampled), Some(Reason::Incomplete));
        assert_eq!(with_room(0, vec![]).forecast().exhausted, Outlook::Reached);
    }

    #[test]
    fn the_second_pass_begins_when_the_ports_of_the_first_parity_end() {
        let odd_first = Situation {
            first: Some(1),
            capacity: [1_000, 1_200],
            taken: [0, 200],
            hold_s: 60.0,
            history: vec![[opened(5), opened(95)]; 10],
            ..Situation::default()
        };
        let forecast = odd_first.forecast();
        let second = forecast.second_pass.and_then(Outlook::prediction).unwrap();
        assert!((second.seconds - 1_000.0 / 95.0).abs() < 1e-9, "{second:?}");
        assert_eq!(forecast.exhausted.seconds(), Some(20.0));
        let begun = Situation {
            taken: [0, 1_200],
            ..odd_first
        };
        assert_eq!(begun.forecast().second_pass, Some(Outlook::Reached));
    }

    #[test]
    fn ports_in_time_wait_leave_at_their_second_and_new_ones_after_a_minute() {
        let kept = Changes {
            opened: 100,
            kept: 100,
            ..Changes::default()
        };
        // A steady state: 100 connections a second, each of which holds its port for a minute.
        let steady: Vec<f64> = (0..6_000).map(|port| f64::from(port) / 100.0).collect();
        let full = |room| Situation {
            capacity: [6_000 + room, 0],
            taken: [6_000, 0],
            leaving_s: [steady.clone(), Vec::new()],
            ..with_room(room, vec![kept; 60])
        };
        assert_eq!(reason(&full(300)), Some(Reason::NotGrowing));
        // The first minute, in which none leaves: 6,000 ports are taken at its end, and never more.
        let begun = |capacity| Situation {
            taken: [1_000, 0],
            capacity: [capacity, 0],
            leaving_s: [
                (0..1_000)
                    .map(|port| 50.0 + f64::from(port) / 100.0)
                    .collect(),
                vec![],
            ],
            ..with_room(0, vec![kept; 10])
        };
        assert_eq!(seconds(&begun(4_000)), Some(30.0));
        assert_eq!(seconds(&begun(5_900)), Some(49.0));
        assert_eq!(reason(&begun(6_101)), Some(Reason::NotGrowing));
        // If searches take ports in TIME_WAIT after a second, they are no bound.
        let reused = Changes {
            reused: 60,
            opened: 40,
            kept: 100,
            freed: 0,
        };
        let reuses = |reused| Situation {
            taken: [100, 0],
            capacity: [4_000, 0],
            leaving_s: [
                (0..100).map(|port| f64::from(port) / 100.0).collect(),
                vec![],
            ],
            reuses: true,
            hold_s: 1.0,
            ..with_room(0, vec![reused; 60])
        };
        assert_eq!(reason(&reuses(reused)), Some(Reason::NotGrowing));
        let growing = Changes { kept: 50, ..reused };
        // 50 a second stay open, beside 50 that are in their first second of TIME_WAIT.
        let end = seconds(&reuses(growing)).unwrap();
        assert!((end - 79.0).abs() <= 1.0, "{end}");
    }

    /// The relative standard error of the mean of 60 counts of 200 is 1 / sqrt(12,000), 0.9 %. So is that of the forecast.
    /// One forecast in 10^8 misses by six times as much, and the interval is within its bound.
    #[test]
    fn random_arrivals_at_a_steady_rate_are_forecast() {
        let mut random = fastrand::Rng::with_seed(17);
        let mut within = 0;
        for _ in 0..500 {
            let history = (0..60).map(|_| opened(poisson(&mut random, 200.0)));
            let situation = with_room(40_000, history.collect::<Vec<_>>());
            let forecast = situation.forecast().exhausted.prediction().unwrap();
            assert!((forecast.seconds / 200.0 - 1.0).abs() < 6.0 / 12_000_f64.sqrt());
            within += u32::from((forecast.at_least..=forecast.at_most).contains(&200.0));
        }
        // At least 95 %, five standard errors (1 %) allowed for.
        assert!(within >= 450, "{within}");
    }

    /// Connections that come and go at the same rate: their number is a random walk. The mean would have to be
    /// `STUDENT / PRECISION`, 11 times, its standard error: by Student's distribution with nine degrees of freedom, one in
    /// a million.
    #[test]
    fn a_random_walk_is_not_forecast() {
        let mut random = fastrand::Rng::with_seed(18);
        for seen in [10, 20, 60] {
            for _ in 0..2_000 {
                let history = (0..seen).map(|_| Changes {
                    freed: poisson(&mut random, 100.0),
                    ..opened(poisson(&mut random, 100.0))
                });
                let situation = with_room(300, history.collect::<Vec<_>>());
                assert_eq!(seconds(&situation), None);
            }
        }
    }

    /// Bursts of ten seconds and pauses of ten: in a minute, blocks of six seconds have between none and all of the traffic.
    #[test]
    fn bursts_are_not_forecast() {
        for phase in 0..20 {
            let history = (0..60).map(|at| opened(((at + phase) / 10 % 2) * 200));
            let situation = with_room(20_000, history.collect::<Vec<_>>());
            assert_eq!(reason(&situation), Some(Reason::Varies), "{phase}");
        }
    }

    /// A rate that is multiplied by exp(0.2 z) each second, a random walk of itself: after 30 s it has changed by a factor of
    /// exp(1.1) or more, up or down, in one of three cases.
    #[test]
    fn a_rate_that_walks_is_hardly_ever_forecast() {
        let mut random = fastrand::Rng::with_seed(19);
        let mut forecast = 0;
        for _ in 0..1_000 {
            let mut rate = 200.0;
            let history = (0..60).map(|_| {
                let uniform: f64 = (0..12).map(|_| random.f64()).sum();
                rate *= (0.2 * (uniform - 6.0)).exp();
                opened(poisson(&mut random, rate))
            });
            forecast +=
                u32::from(seconds(&with_room(20_000, history.collect::<Vec<_>>())).is_some());
        }
        assert!(forecast < 50, "{forecast}");
    }

    #[test]
    fn a_rate_that_drifts_is_as_uncertain_as_its_halves_differ() {
        let history: Vec<f64> = (0..60).map(|at| 100.0 + f64::from(at)).collect();
        let rate = Rate::of(&history);
        assert!((rate.mean - 129.5).abs() < 1e-9);
        assert!((rate.half - 30.0).abs() < 1e-9, "{rate:?}");
    }
}
