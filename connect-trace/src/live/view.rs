//! The history as lists, shares and words, from which page and `top` draw.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use connect_trace_common::BUCKETS;

use super::history::{Column, History, Latest, Strategy};
use crate::{
    connect::{Outcome, PortChoice},
    overhead::core_percent,
    stats::{
        exhaustion::{Exhaustion, SearchedRoute},
        route::Route,
    },
    term::{
        errno,
        numbers::{count, plain, tenths, time},
    },
};

/// Stands in place of the routes if there are none.
pub(crate) const NO_ROUTE: &str = "No search found half of its ports taken.";
/// Stands in place of the strategies if there are none.
pub(crate) const NO_CALL: &str = "No connect() call.";

/// Number of classes of speed of [`View::speeds`].
const SPEEDS: usize = 4;

/// A term and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub term: String,
    pub value: String,
    /// True if the value is not as it should be.
    pub is_bad: bool,
}

/// The history after its first interval.
pub(crate) struct View<'a> {
    pub history: &'a History,
    /// The columns, the oldest first.
    pub columns: Vec<&'a Column>,
    /// All columns as one.
    pub whole: Column,
    pub latest: &'a Latest,
}

impl<'a> View<'a> {
    /// Returns the view of this history; `None` before the end of the first interval.
    pub(crate) fn of(history: &'a History) -> Option<Self> {
        Some(Self {
            history,
            columns: history.columns().collect(),
            whole: history.whole()?,
            latest: history.latest()?,
        })
    }

    /// Returns a value of each column, the oldest first.
    pub(crate) fn course<T>(&self, of: impl Fn(&Column) -> T) -> Vec<T> {
        self.columns.iter().map(|column| of(column)).collect()
    }

    /// Returns the outcomes that are shown: ports of both parities always, others if there are any.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        let is_shown = |outcome: &Outcome| {
            matches!(outcome, Outcome::Even | Outcome::Odd)
                || self.whole.times[outcome.index()].count > 0
        };
        Outcome::ALL.into_iter().filter(is_shown).collect()
    }

    /// Returns the first and the last bucket of times that is shown.
    pub(crate) fn buckets(&self) -> (usize, usize) {
        shown_buckets(&self.whole.all_times().buckets)
    }

    /// Returns the latency from which calls count as slow, in words.
    pub(crate) fn slow_words(&self) -> String {
        format!("{} or more", time(self.history.slow_ns() as f64))
    }

    /// Returns the routes of the history: the fullest now, then the fullest before.
    pub(crate) fn routes(&self) -> Vec<Exhaustion> {
        let now = self.columns.last().map_or(&[][..], |column| &column.routes);
        let is_now = |searched: &SearchedRoute| now.iter().any(|found| found.searched == *searched);
        let mut routes = self.whole.routes.clone();
        // The sort keeps the order of equal elements, which is by fullness.
        routes.sort_by_key(|found| !is_now(&found.searched));
        routes
    }

    /// Returns the end of the last column that has this route.
    pub(crate) fn last_seen(&self, searched: &SearchedRoute) -> Option<SystemTime> {
        let mut columns = self.columns.iter().rev();
        let column = columns.find(|column| column.percent_taken(searched).is_some())?;
        Some(column.at)
    }

    /// Returns the names of the classes of speed, the fastest first.
    pub(crate) fn speeds(&self) -> [String; SPEEDS] {
        let first = self.slow_power();
        let edges = [first, first + 1].map(|power| time(10_f64.powi(power as i32)));
        let minimum = time(self.history.min_latency().as_nanos() as f64);
        [
            format!("below {minimum}"),
            format!("below {}", edges[0]),
            format!("below {}", edges[1]),
            format!("{} or more", edges[1]),
        ]
    }

    /// Returns the number of calls of a strategy by class of speed. The calls of the first have no record.
    pub(crate) fn by_speed(&self, strategy: &Strategy) -> [u64; SPEEDS] {
        let recorded = &strategy.recorded;
        let first = self.slow_power();
        let sum = |from: usize, to: usize| -> u64 {
            let to = to.min(BUCKETS);
            let buckets = recorded.buckets.get(from..to).unwrap_or_default();
            buckets.iter().sum()
        };
        [
            strategy.connects.saturating_sub(recorded.count),
            sum(0, first),
            sum(first, first + 1),
            sum(first + 1, BUCKETS),
        ]
    }

    fn slow_power(&self) -> usize {
        self.history.slow_ns().ilog10() as usize
    }

    /// Returns the failures and losses of a column of this history, and the account since the start.
    pub(crate) fn losses(&self, of: &Column) -> Vec<Fact> {
        let latest = self.latest;
        let mut facts = Vec::new();
        let errnos = of.failures();
        if errnos.is_empty() {
            facts.push(fact("Failed", "none"));
        }
        for (errno, failures) in errnos {
            let term = format!("Failed, {}", errno::name(errno));
            facts.push(fact(term, count(failures)));
        }
        facts.push(of_zero("Lost", of.lost));
        facts.push(of_zero("Lost since the start", latest.lost));
        facts.push(of_zero("Programs skipped by the kernel", of.skipped));
        if of.unsampled > 0 {
            facts.push(fact("Counted without a record", count(of.unsampled)));
        }
        if !of.blind.is_zero() {
            let seconds = tenths(of.blind.as_secs_f64());
            facts.push(bad("Probes detached", format!("{seconds} s")));
        }
        facts.push(match latest.adds_up {
            true => fact("Account", "every call is accounted for"),
            false => bad("Account", "INCOMPLETE: it does not add up"),
        });
        facts.push(fact("Calls since the start", count(latest.entered)));
        facts
    }

    /// Returns the cost of the tracer in a column of this history.
    pub(crate) fn cost(&self, of: &Column) -> Vec<Fact> {
        let of_core =
            |cpu: Duration| format!("{} % of a core", plain(core_percent(cpu, of.elapsed)));
        let programs = of
            .programs
            .map_or_else(|| "not measured without --max-overhead".to_owned(), of_core);
        let mib = |bytes: u64| format!("{} MiB", tenths(bytes as f64 / 1_048_576.0));
        vec![
            fact("connect-trace itself", of_core(of.own_cpu)),
            fact("Programs in the kernel", programs),
            fact("Traced", self.latest.level.to_string()),
            fact("Memory", mib(self.latest.own.resident_bytes)),
        ]
    }

    /// Returns the cost of each part of the tracer in each column, in percent of a core.
    pub(crate) fn costs(&self) -> Vec<(&'static str, Vec<Option<f64>>)> {
        let of = |cpu: fn(&Column) -> Option<Duration>| {
            self.course(|column| cpu(column).map(|cpu| core_percent(cpu, column.elapsed)))
        };
        let mut costs = vec![("connect-trace itself", of(|column| Some(column.own_cpu)))];
        if self.whole.programs.is_some() {
            costs.push(("programs in the kernel", of(|column| column.programs)));
        }
        costs
    }

    /// Returns what is traced, and how.
    pub(crate) fn trace(&self) -> String {
        let Latest {
            kernel,
            attached,
            filters,
            ..
        } = self.latest;
        let only = match filters.is_empty() {
            true => String::new(),
            false => format!("; only {}", filters.join(" ")),
        };
        format!("Linux {kernel}, attached by {attached}{only}.")
    }
}

impl Column {
    /// Returns the strategies with calls and their names, the most frequent first.
    pub(crate) fn strategies(&self) -> Vec<(&'static str, Strategy)> {
        let names = PortChoice::ALL.map(PortChoice::name);
        let names = names.into_iter().chain(["before the choice"]);
        let all = names.zip(self.strategies);
        let mut all: Vec<_> = all.filter(|(_, strategy)| strategy.connects > 0).collect();
        all.sort_by_key(|(_, strategy)| Reverse(strategy.connects));
        all
    }

    /// Returns the share of the ports of this route that is known to be in use, in percent.
    pub(crate) fn percent_taken(&self, searched: &SearchedRoute) -> Option<u32> {
        let found = self
            .routes
            .iter()
            .find(|found| found.searched == *searched)?;
        Some(found.evidence.percent_taken)
    }

    /// Returns this number for each second.
    pub(crate) fn rate(&self, number: u64) -> f64 {
        number as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Returns the first and the last bucket with a call; milliseconds and below if there is none.
fn shown_buckets(counts: &[u64; BUCKETS]) -> (usize, usize) {
    let first = counts.iter().position(|&count| count > 0);
    let last = counts.iter().rposition(|&count| count > 0);
    // A map of one row says nothing about fast and slow.
    match first.zip(last) {
        Some((first, last)) => (first.min(4), last.max(6)),
        None => (4, 6),
    }
}

/// Returns the title of an outcome.
pub(crate) fn title(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Even => "Even ports",
        Outcome::Odd => "Odd ports",
        Outcome::Bound => "No search: the socket had a port",
        Outcome::Failed => "Failed",
    }
}

/// Returns the name of a route.
pub(crate) fn route_name(route: &Route) -> String {
    format!("{} \u{2192} {}", route.source, route.destination)
}

/// Returns a time in the unit that suits it, or a dash.
pub(crate) fn or_dash(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), time)
}

/// Returns the share of a part.
pub(crate) fn percent(part: u64, all: u64) -> String {
    if all == 0 {
        return "-".to_owned();
    }
    let share = part as f64 / all as f64 * 100.0;
    // A share that is rounded to nothing is not nothing.
    match part > 0 && share < 0.1 {
        true => "below 0.1 %".to_owned(),
        false => format!("{} %", tenths(share)),
    }
}

fn fact(term: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact {
        term: term.into(),
        value: value.into(),
        is_bad: false,
    }
}

fn bad(term: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact {
        is_bad: true,
        ..fact(term, value)
    }
}

/// Returns a count that should be zero.
fn of_zero(term: &str, value: u64) -> Fact {
    match value {
        0 => fact(term, "none"),
        value => bad(term, count(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_with_calls_and_milliseconds() {
        let mut counts = [0; BUCKETS];
        assert_eq!(shown_buckets(&counts), (4, 6));
        (counts[4], counts[7]) = (19, 1_000_000);
        assert_eq!(shown_buckets(&counts), (4, 7));
        assert_eq!(shown_buckets(&[1; BUCKETS]), (0, BUCKETS - 1));
    }

    #[test]
    fn a_small_share_is_not_nothing() {
        let shares = [(0, 10), (1, 3), (1, 100_000), (0, 0)].map(|(part, all)| percent(part, all));
        assert_eq!(shares, ["0 %", "33.3 %", "below 0.1 %", "-"]);
    }
}
