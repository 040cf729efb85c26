//! Which levels a trace went through to keep its budget, and for how long, by report. Times are those since
//! the start of the trace, as they are given.

use std::time::Duration;

use super::limiter::{Cost, Level};

/// Most spells that a report has.
const MOST_SPELLS: usize = 64;

/// A time at one level, or the part of it within a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spell {
    /// The level.
    pub level: Level,
    /// When it began, since the report's own start.
    pub begins: Duration,
    /// For how long, as far as it is within the report.
    pub lasted: Duration,
    /// What the window cost that led to it; `None` at the start of the trace.
    pub cost: Option<Cost>,
}

/// What a report says of its budget.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetUse {
    /// The limit, percent of one core.
    pub limit: f64,
    /// The levels within the report's time, the latest if there were very many.
    pub spells: Vec<Spell>,
    /// Spells before these that are left out.
    pub left_out: u64,
    /// For how long port checks were not watched, whatever else was given up.
    pub unwatched: Duration,
    /// For how long records were made of some calls alone.
    pub sampled: Duration,
    /// For how long the probes were detached.
    pub blind: Duration,
    /// Calls of connect() that were counted in that time, and those of them without a record because they
    /// were not sampled.
    pub entered: u64,
    /// See `entered`.
    pub unsampled: u64,
}

/// The levels so far.
#[derive(Clone, Debug)]
pub struct Course {
    /// Of the report that is being collected; `begins` since the start of the trace. The last one goes on.
    spells: Vec<Spell>,
    left_out: u64,
    /// Of spells that are over.
    unwatched: Duration,
    sampled: Duration,
    blind: Duration,
    /// When the report began.
    since: Duration,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            spells: vec![Spell {
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
pub struct Taken {
    /// See [`BudgetUse::spells`].
    pub spells: Vec<Spell>,
    /// See [`BudgetUse::left_out`].
    pub left_out: u64,
    /// See [`BudgetUse::unwatched`].
    pub unwatched: Duration,
    /// See [`BudgetUse::sampled`].
    pub sampled: Duration,
    /// See [`BudgetUse::blind`].
    pub blind: Duration,
}

impl Course {
    /// Another level from now on.
    pub fn go(&mut self, now: Duration, level: Level, cost: Cost) {
        self.end(now);
        if self.spells.len() == MOST_SPELLS {
            self.spells.remove(0);
            self.left_out += 1;
        }
        self.spells.push(Spell {
            level,
            begins: now,
            lasted: Duration::ZERO,
            cost: Some(cost),
        });
    }

    /// The report ends now, and another one begins.
    pub fn take(&mut self, now: Duration) -> Taken {
        self.end(now);
        let last = self.spells.last().copied();
        let mut spells = std::mem::take(&mut self.spells);
        for spell in &mut spells {
            spell.begins = spell.begins.saturating_sub(self.since);
        }
        let taken = Taken {
            spells,
            left_out: std::mem::take(&mut self.left_out),
            unwatched: std::mem::take(&mut self.unwatched),
            sampled: std::mem::take(&mut self.sampled),
            blind: std::mem::take(&mut self.blind),
        };
        self.since = now;
        self.spells.extend(last.map(|spell| Spell {
            begins: now,
            lasted: Duration::ZERO,
            ..spell
        }));
        taken
    }

    fn end(&mut self, now: Duration) {
        let Some(spell) = self.spells.last_mut() else {
            return;
        };
        spell.lasted = now.saturating_sub(spell.begins);
        if spell.level != Level::Full {
            self.unwatched += spell.lasted;
        }
        match spell.level {
            Level::Sampled(_) => self.sampled += spell.lasted,
            Level::Detached => self.blind += spell.lasted,
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

    fn seconds(spells: &[Spell]) -> Vec<(Level, u64, u64)> {
        let of = |spell: &Spell| (spell.level, spell.begins.as_secs(), spell.lasted.as_secs());
        spells.iter().map(of).collect()
    }

    #[test]
    fn a_report_has_the_levels_of_its_time() {
        let at = Duration::from_secs;
        let mut course = Course::default();
        course.go(at(4), Level::Sampled(8), cost(9.0));
        let first = course.take(at(10));
        let expected = [(Level::Full, 0, 4), (Level::Sampled(8), 4, 6)];
        assert_eq!(seconds(&first.spells), expected);
        assert_eq!((first.sampled, first.blind), (at(6), at(0)));
        assert_eq!(first.spells[1].cost, Some(cost(9.0)));

        course.go(at(12), Level::Detached, cost(8.0));
        course.go(at(15), Level::Sampled(64), cost(0.0));
        let second = course.take(at(20));
        let expected = [
            (Level::Sampled(8), 0, 2),
            (Level::Detached, 2, 3),
            (Level::Sampled(64), 5, 5),
        ];
        assert_eq!(seconds(&second.spells), expected);
        assert_eq!((second.sampled, second.blind), (at(7), at(3)));
        assert_eq!((first.unwatched, second.unwatched), (at(6), at(10)));
        let third = course.take(at(21));
        assert_eq!(seconds(&third.spells), [(Level::Sampled(64), 0, 1)]);
    }

    #[test]
    fn so_many_steps_that_they_have_no_room_are_in_the_sums() {
        let mut course = Course::default();
        for second in 1..=200 {
            let level = match second % 2 {
                0 => Level::Detached,
                _ => Level::Sampled(64),
            };
            course.go(Duration::from_secs(second), level, cost(1.0));
        }
        let taken = course.take(Duration::from_secs(201));
        assert_eq!((taken.spells.len(), taken.left_out), (64, 137));
        assert_eq!(taken.sampled, Duration::from_secs(100));
        assert_eq!(taken.blind, Duration::from_secs(100));
    }
}
