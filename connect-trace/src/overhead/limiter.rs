//! Keeps the overhead of a trace below a limit: decides on the next level. The limiter reads neither clock nor kernel:
//! the caller passes the overhead of each window of time.

use std::fmt;

/// The level of a trace: how much is traced, from everything to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything that was requested.
    Full,
    /// Everything but the calls of `__inet{,6}_check_established`.
    Unwatched,
    /// Like `Unwatched`, with records of one connect() in the given number, a power of two.
    Sampled(u32),
    /// Nothing: the probes are detached.
    Detached,
}

/// Largest number of connect() calls of which one is sampled. At this number, the programs' cost is mostly their entry,
/// which a larger one would not lower.
pub const MOST: u32 = 64;

impl Level {
    /// Names of the levels, from everything to nothing.
    pub(crate) const NAMES: [&'static str; 4] = ["full", "unwatched", "sampled", "detached"];

    /// Returns the name in JSON and metrics.
    pub(crate) fn name(self) -> &'static str {
        let [full, unwatched, sampled, detached] = Self::NAMES;
        match self {
            Self::Full => full,
            Self::Unwatched => unwatched,
            Self::Sampled(_) => sampled,
            Self::Detached => detached,
        }
    }

    /// Returns the number of calls of which one is recorded; `None` if none is.
    #[must_use]
    pub fn sample_every(self) -> Option<u32> {
        match self {
            Self::Full | Self::Unwatched => Some(1),
            Self::Sampled(every) => Some(every),
            Self::Detached => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("everything as requested"),
            Self::Unwatched => formatter.write_str("port checks not watched"),
            Self::Sampled(every) => write!(formatter, "records of 1 connect() in {every}"),
            Self::Detached => formatter.write_str("probes detached, no call is seen"),
        }
    }
}

/// Overhead of a window of time, in percent of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Run time of the programs, by the kernel's statistics.
    pub programs: f64,
    /// CPU time of this process.
    pub own: f64,
}

impl Cost {
    /// Returns the sum of both.
    #[must_use]
    pub fn sum(self) -> f64 {
        self.programs + self.own
    }
}

/// Number of cheap windows in a row that are required before the level is raised.
const WAIT: u32 = 3;
/// Largest value of that number after raises that failed: five minutes of one-second windows.
const MOST_WAIT: u32 = 300;
/// Number of windows after which a raise counts as successful.
const WORKED_OUT: u32 = 30;
/// Largest ratio of this process's cost for a record to that of the programs that made it. Any cost beyond that has
/// another cause, such as a report, and a lower level would not save it.
const OWN_BY_PROGRAMS: f64 = 16.0;
/// Share of the limit that is the target, so that the limit itself is not reached at once.
const TARGET_SHARE: f64 = 0.8;

/// A state machine that decides on the level.
///
/// The cost is the run time of the programs, plus the part of this process's CPU time that records can have caused.
/// Above the limit, the level is lowered at once. Below [`Level::Full`] comes [`Level::Unwatched`], if candidate checks
/// are watched. Then comes [`Level::Sampled`], with the number at which the cost is expected below the target, but at
/// least twice the number before; after [`MOST`], the probes are detached. The level is raised after `wait` windows in
/// a row that were so cheap that the next level would cost less than the target even at twice their cost or more. Each
/// raise that fails doubles `wait`, until one to that level or above succeeds.
#[derive(Clone, Debug)]
pub struct Limiter {
    limit: f64,
    watches: bool,
    level: Level,
    /// Lowest cost of this process in any window: its cost without traffic, which no level lowers.
    idle: f64,
    /// Number of cheap windows in a row, or of windows without probes; `quiet_cost` is the highest cost of any of them
    /// above `idle`.
    quiet: u32,
    quiet_cost: f64,
    wait: u32,
    /// Number of windows since the level was raised; `None` once the raise has succeeded or failed.
    raised: Option<u32>,
    /// The level to which a raise failed.
    failed: Level,
}

impl Limiter {
    /// Creates a limiter for a limit in percent of one core. `watches` says whether `__inet_check_established` is
    /// watched at all.
    #[must_use]
    pub fn new(limit: f64, watches: bool) -> Self {
        Self {
            limit,
            watches,
            level: Level::Full,
            idle: f64::INFINITY,
            quiet: 0,
            quiet_cost: 0.0,
            wait: WAIT,
            raised: None,
            failed: Level::Detached,
        }
    }

    /// Returns the limit, in percent of one core.
    #[must_use]
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// Changes the limit. The level follows with the next windows.
    pub(crate) fn set_limit(&mut self, limit: f64) {
        self.limit = limit;
    }

    /// Returns the present level.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes the cost of a whole window at the present level. Returns the next level, if it is another one.
    pub fn window(&mut self, cost: Cost) -> Option<Level> {
        self.idle = self.idle.min(cost.own);
        if let Some(windows) = &mut self.raised {
            *windows += 1;
            if *windows >= WORKED_OUT.max(self.wait) {
                self.raised = None;
                // A success at an intermediate level, on the way to the level that failed, proves nothing about the
                // latter.
                if rank(self.level) <= rank(self.failed) {
                    self.wait = WAIT;
                }
            }
        }
        let own = (cost.own - self.idle).min(cost.programs * OWN_BY_PROGRAMS);
        let above = cost.programs + own;
        let to = if self.level == Level::Detached {
            // Without probes there is no traffic to measure, so only an attempt gives an answer.
            self.quiet += 1;
            (self.quiet >= self.wait).then_some(Level::Sampled(MOST))
        } else if self.idle + above > self.limit {
            Some(self.less(above))
        } else {
            self.more(above)
        }?;
        let raises = rank(to) < rank(self.level);
        if raises {
            self.raised = Some(0);
        } else if self.raised.take().is_some() {
            self.wait = (self.wait * 2).min(MOST_WAIT);
            self.failed = self.level;
        }
        (self.quiet, self.quiet_cost) = (0, 0.0);
        self.level = to;
        Some(to)
    }

    /// Returns the cost that is allowed above `idle`; 0 if `idle` alone reaches the limit.
    fn room(&self) -> f64 {
        (self.limit - self.idle).max(0.0) * TARGET_SHARE
    }

    /// Returns the next lower level, after a window with this cost above `idle`.
    fn less(&self, above: f64) -> Level {
        let every = match self.level {
            Level::Full if self.watches => return Level::Unwatched,
            Level::Full | Level::Unwatched => 1,
            Level::Sampled(MOST) | Level::Detached => return Level::Detached,
            Level::Sampled(every) => every,
        };
        let room = self.room();
        let mut times = 2;
        while every * times < MOST && (room == 0.0 || above / f64::from(times) > room) {
            times *= 2;
        }
        Level::Sampled(every * times)
    }

    /// Returns the next higher level, once enough windows were cheap.
    fn more(&mut self, above: f64) -> Option<Level> {
        if self.level == Level::Full {
            return None;
        }
        if above * 2.0 > self.room() {
            (self.quiet, self.quiet_cost) = (0, 0.0);
            return None;
        }
        self.quiet += 1;
        self.quiet_cost = self.quiet_cost.max(above);
        if self.quiet < self.wait {
            return None;
        }
        let Level::Sampled(mut every) = self.level else {
            return Some(Level::Full);
        };
        let mut expected = self.quiet_cost * 2.0;
        while every > 1 && expected <= self.room() {
            every /= 2;
            expected *= 2.0;
        }
        Some(match every {
            1 if self.watches => Level::Unwatched,
            1 => Level::Full,
            _ => Level::Sampled(every),
        })
    }
}

/// Returns the rank of a level: a higher rank traces less.
fn rank(level: Level) -> u32 {
    match level {
        Level::Full => 0,
        Level::Unwatched => 1,
        Level::Sampled(every) => every,
        Level::Detached => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(programs: f64) -> Cost {
        Cost { programs, own: 0.1 }
    }

    /// Returns the levels that windows with this cost lead to, one after the other.
    fn levels(limiter: &mut Limiter, programs: f64, windows: u32) -> Vec<Level> {
        (0..windows)
            .filter_map(|_| limiter.window(cost(programs)))
            .collect()
    }

    #[test]
    fn below_the_limit_nothing_is_given_up() {
        let mut limiter = Limiter::new(1.0, true);
        assert_eq!(levels(&mut limiter, 0.9, 1_000), []);
        assert_eq!(limiter.level(), Level::Full);
    }

    #[test]
    fn the_dearest_goes_first_and_the_probes_last() {
        let mut limiter = Limiter::new(1.0, true);
        let expected = [Level::Unwatched, Level::Sampled(64), Level::Detached];
        assert_eq!(levels(&mut limiter, 100.0, 3), expected);
    }

    #[test]
    fn where_nothing_is_watched_records_are_sampled_at_once() {
        let mut limiter = Limiter::new(1.0, false);
        assert_eq!(limiter.window(cost(1.3)), Some(Level::Sampled(2)));
    }

    #[test]
    fn a_sample_is_as_small_as_it_must_be() {
        // With an `idle` of 0.1 the target is 0.72.
        for (programs, every) in [(1.0, 2), (1.4, 2), (1.5, 4), (2.8, 4), (3.0, 8), (40.0, 64)] {
            let mut limiter = Limiter::new(1.0, false);
            let to = limiter.window(cost(programs));
            assert_eq!(to, Some(Level::Sampled(every)), "{programs}");
        }
        let mut limiter = Limiter::new(1.0, false);
        limiter.window(cost(1.2));
        let doubled = [Level::Sampled(4), Level::Sampled(8), Level::Sampled(16)];
        assert_eq!(levels(&mut limiter, 1.2, 3), doubled);
    }

    #[test]
    fn it_returns_step_by_step_when_nothing_comes_any_more() {
        let mut limiter = Limiter::new(1.0, true);
        levels(&mut limiter, 100.0, 3);
        let expected = [Level::Sampled(64), Level::Unwatched, Level::Full];
        assert_eq!(levels(&mut limiter, 0.0, 9), expected, "three windows each");
        assert_eq!(levels(&mut limiter, 0.0, 1_000), []);
    }

    #[test]
    fn it_returns_as_far_as_the_rate_allows() {
        let mut limiter = Limiter::new(1.0, false);
        levels(&mut limiter, 40.0, 1);
        assert_eq!(limiter.level(), Level::Sampled(64));
        // 8 times the cost is 0.64, 16 times would be more than 0.72.
        assert_eq!(levels(&mut limiter, 0.08, 3), [Level::Sampled(8)]);
        assert_eq!(levels(&mut limiter, 0.64, 1_000), [], "as expected");
        assert_eq!(
            levels(&mut limiter, 0.5, 1_000),
            [],
            "twice that is too much"
        );
    }

    #[test]
    fn an_attempt_that_does_not_work_out_waits_twice_as_long_for_the_next() {
        let mut limiter = Limiter::new(1.0, true);
        levels(&mut limiter, 5.0, 1);
        let mut waited = Vec::new();
        for _ in 0..10 {
            let mut windows = 1;
            while limiter.window(cost(0.0)).is_none() {
                windows += 1;
            }
            assert_eq!(limiter.level(), Level::Full);
            waited.push(windows);
            assert_eq!(limiter.window(cost(5.0)), Some(Level::Unwatched));
        }
        assert_eq!(waited, [3, 6, 12, 24, 48, 96, 192, 300, 300, 300]);
        // After a raise that succeeded, `wait` has its first value again.
        levels(&mut limiter, 0.0, 300 + 300);
        assert_eq!(levels(&mut limiter, 5.0, 1), [Level::Unwatched]);
        assert_eq!(levels(&mut limiter, 0.0, 3), [Level::Full]);
    }

    #[test]
    fn a_step_between_that_works_out_does_not_make_the_next_attempt_come_sooner() {
        let mut limiter = Limiter::new(1.0, false);
        let mut waited = Vec::new();
        for _ in 0..8 {
            let mut windows = 0;
            while limiter.level() != Level::Full {
                let sampled = |every| limiter.level() == Level::Sampled(every);
                limiter.window(cost(if sampled(2) { 0.3 } else { 0.2 }));
                windows += 1;
            }
            waited.push(windows);
            assert_eq!(limiter.window(cost(2.0)), Some(Level::Sampled(4)));
        }
        assert_eq!(waited, [0, 6, 12, 24, 48, 96, 192, 384]);
    }

    #[test]
    fn without_probes_it_looks_again_whatever_it_costs_itself() {
        let mut limiter = Limiter::new(0.05, true);
        let expected = [Level::Unwatched, Level::Sampled(64), Level::Detached];
        assert_eq!(levels(&mut limiter, 0.0, 3), expected, "0.1 is its own");
        let expected = [Level::Sampled(64), Level::Detached];
        assert_eq!(levels(&mut limiter, 0.0, 4), expected);
        // `wait` was doubled.
        assert_eq!(levels(&mut limiter, 0.0, 5), []);
        assert_eq!(levels(&mut limiter, 0.0, 2), expected);
    }

    #[test]
    fn what_no_level_would_save_is_no_reason_for_one() {
        let mut limiter = Limiter::new(1.0, true);
        levels(&mut limiter, 0.01, 1);
        let report = Cost {
            programs: 0.01,
            own: 50.0,
        };
        assert_eq!(limiter.window(report), None);
        let records = Cost {
            programs: 0.1,
            own: 1.6,
        };
        assert_eq!(limiter.window(records), Some(Level::Unwatched));
    }

    #[test]
    fn one_dear_window_begins_the_wait_anew() {
        let mut limiter = Limiter::new(1.0, true);
        levels(&mut limiter, 5.0, 1);
        assert_eq!(levels(&mut limiter, 0.0, 2), []);
        assert_eq!(levels(&mut limiter, 0.8, 1), []);
        assert_eq!(levels(&mut limiter, 0.0, 2), []);
        assert_eq!(levels(&mut limiter, 0.0, 1), [Level::Full]);
    }

    proptest! {
        /// For any costs: a sample is a power of two, no change skips the levels in between, and a constant load ends
        /// in a level that is left ever more rarely.
        #[test]
        fn a_constant_load_does_not_flap(
            limit in 0.01..10.0_f64,
            full in 0.0..100.0_f64,
            fixed in 0.0..1.0_f64,
            watching in 1.0..5.0_f64,
            watches: bool,
        ) {
            let mut limiter = Limiter::new(limit, watches);
            let mut changes = 0;
            for _ in 0..5_000 {
                let level = limiter.level();
                let programs = match level {
                    Level::Full => full * watching,
                    Level::Unwatched => full,
                    Level::Sampled(every) => full * fixed + full * (1.0 - fixed) / f64::from(every),
                    Level::Detached => 0.0,
                };
                let Some(to) = limiter.window(cost(programs)) else { continue };
                changes += 1;
                prop_assert_ne!(to, level);
                match (level, to) {
                    (_, Level::Sampled(every)) => prop_assert!(
                        every.is_power_of_two() && (2..=MOST).contains(&every)
                    ),
                    (_, Level::Unwatched) => prop_assert!(watches),
                    (Level::Full, Level::Detached) | (Level::Detached, Level::Full) => {
                        prop_assert!(false, "{level:?} to {to:?}")
                    }
                    _ => {}
                }
            }
            prop_assert!(changes < 100, "{changes} changes");
        }
    }
}
