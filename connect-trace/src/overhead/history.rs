//! History of the levels to which a trace switched to keep its overhead limit, by report. Times count from the start of
//! the trace; the caller passes them.

use std::time::Duration;

use super::limiter::{Cost, Level};

/// Largest number of periods in a report.
const MOST_PERIODS: usize = 64;

/// A period at one level, or the part of it within a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelPeriod {
    /// The level.
    pub level: Level,
    /// Start of the period, counted from the start of the report.
    pub begins: Duration,
    /// Length of the part of the period within the report.
    pub lasted: Duration,
    /// Overhead of the window that caused the level; `None` at the start of the trace.
    pub cost: Option<Cost>,
}

/// Part of a report about the overhead limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitUse {
    /// The limit, percent of one core.
    pub limit: f64,
    /// The periods within the report's time, the latest ones if there were very many.
    pub periods: Vec<LevelPeriod>,
    /// Number of earlier periods that are left out.
    pub left_out: u64,
    /// Time during which candidate checks were not watched, at any level.
    pub unwatched: Duration,
    /// Time during which only some calls got a record.
    pub sampled: Duration,
    /// Time during which the probes were detached.
    pub blind: Duration,
    /// Number of connect() calls that were counted in that time; `unsampled` is the number of them without a record
    /// because they were not sampled.
    pub entered: u64,
    /// See `entered`.
    pub unsampled: u64,
}

/// The levels until now.
#[derive(Clone, Debug)]
pub(crate) struct LevelHistory {
    /// Periods of the next report; here `begins` counts from the start of the trace. The last one goes on.
    periods: Vec<LevelPeriod>,
    left_out: u64,
    /// Sum over the periods that have ended, as are `sampled` and `blind`.
    unwatched: Duration,
    sampled: Duration,
    blind: Duration,
    /// Start of the next report's time.
    since: Duration,
}

impl Default for LevelHistory {
    fn default() -> Self {
        Self {
            periods: vec![LevelPeriod {
                level: Level::Full,
                begins: Duration::ZERO,
                lasted: Duration::ZERO,
                cost: None,
            }],
            left_out: 0,
            unwatched: Duration::ZERO,
            sampled: Duration::ZERO,
            blind: Duration::ZERO,
            since: Duration::ZERO,
        }
    }
}

/// The levels within a report.
pub(crate) struct LevelHistoryPart {
    /// See [`LimitUse::periods`].
    pub periods: Vec<LevelPeriod>,
    /// See [`LimitUse::left_out`].
    pub left_out: u64,
    /// See [`LimitUse::unwatched`].
    pub unwatched: Duration,
    /// See [`LimitUse::sampled`].
    pub sampled: Duration,
    /// See [`LimitUse::blind`].
    pub blind: Duration,
}

impl LevelHistory {
    /// Ends the period and begins one at another level.
    pub(crate) fn go(&mut self, now: Duration, level: Level, cost: Cost) {
        self.end(now);
        if self.periods.len() == MOST_PERIODS {
            self.periods.remove(0);
            self.left_out += 1;
        }
        self.periods.push(LevelPeriod {
            level,
            begins: now,
            lasted: Duration::ZERO,
            cost: Some(cost),
        });
    }

    /// Ends the time of a report, returns its part, and begins the next one.
    pub(crate) fn take(&mut self, now: Duration) -> LevelHistoryPart {
        self.end(now);
        let last = self.periods.last().copied();
        let mut periods = std::mem::take(&mut self.periods);
        for period in &mut periods {
            period.begins = period.begins.saturating_sub(self.since);
        }
        let taken = LevelHistoryPart {
            periods,
            left_out: std::mem::take(&mut self.left_out),
            unwatched: std::mem::take(&mut self.unwatched),
            sampled: std::mem::take(&mut self.sampled),
            blind: std::mem::take(&mut self.blind),
        };
        self.since = now;
        self.periods.extend(last.map(|period| LevelPeriod {
            begins: now,
            lasted: Duration::ZERO,
            ..period
        }));
        taken
    }

    fn end(&mut self, now: Duration) {
        let Some(period) = self.periods.last_mut() else {
            return;
        };
        period.lasted = now.saturating_sub(period.begins);
        if period.level != Level::Full {
            self.unwatched += period.lasted;
        }
        match period.level {
            Level::Sampled(_) => self.sampled += period.lasted,
            Level::Detached => self.blind += period.lasted,
            Level::Full | Level::Unwatched => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(programs: f64) -> Cost {
        Cost { programs, own: 0.0 }
    }

    fn seconds(periods: &[LevelPeriod]) -> Vec<(Level, u64, u64)> {
        let of = |period: &LevelPeriod| {
            (
                period.level,
                period.begins.as_secs(),
                period.lasted.as_secs(),
            )
        };
        periods.iter().map(of).collect()
    }

    #[test]
    fn a_report_has_the_levels_of_its_time() {
        let at = Duration::from_secs;
        let mut history = LevelHistory::default();
        history.go(at(4), Level::Sampled(8), cost(9.0));
        let first = history.take(at(10));
        let expected = [(Level::Full, 0, 4), (Level::Sampled(8), 4, 6)];
        assert_eq!(seconds(&first.periods), expected);
        assert_eq!((first.sampled, first.blind), (at(6), at(0)));
        assert_eq!(first.periods[1].cost, Some(cost(9.0)));

        history.go(at(12), Level::Detached, cost(8.0));
        history.go(at(15), Level::Sampled(64), cost(0.0));
        let second = history.take(at(20));
        let expected = [
            (Level::Sampled(8), 0, 2),
            (Level::Detached, 2, 3),
            (Level::Sampled(64), 5, 5),
        ];
        assert_eq!(seconds(&second.periods), expected);
        assert_eq!((second.sampled, second.blind), (at(7), at(3)));
        assert_eq!((first.unwatched, second.unwatched), (at(6), at(10)));
        let third = history.take(at(21));
        assert_eq!(seconds(&third.periods), [(Level::Sampled(64), 0, 1)]);
    }

    #[test]
    fn so_many_steps_that_they_have_no_room_are_in_the_sums() {
        let mut history = LevelHistory::default();
        for second in 1..=200 {
            let level = match second % 2 {
                0 => Level::Detached,
                _ => Level::Sampled(64),
            };
            history.go(Duration::from_secs(second), level, cost(1.0));
        }
        let taken = history.take(Duration::from_secs(201));
        assert_eq!((taken.periods.len(), taken.left_out), (64, 137));
        assert_eq!(taken.sampled, Duration::from_secs(100));
        assert_eq!(taken.blind, Duration::from_secs(100));
    }
}
