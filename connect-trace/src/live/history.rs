//! The last quarter of an hour of a trace, for what is shown of it, in bounded memory: a column for each ten seconds or more.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use connect_trace_common::{BUCKETS, buckets::lower_edge_ns};

use crate::{
    connect::{Outcome, PortChoice},
    kernel,
    metrics::{Totals, totals::Search},
    overhead::{limiter::Level, process_usage::ProcessUsage},
    stats::{Group, exhaustion::Exhaustion, filling::Filling, report::Report},
};

/// Time that the history covers.
pub(crate) const SPAN: Duration = Duration::from_secs(15 * 60);
/// Shortest time of a column that is not the latest: shorter intervals share a column.
const COLUMN: Duration = Duration::from_secs(10);
/// Maximum number of columns: those of the span, and one that has just begun.
const MOST_COLUMNS: usize = (SPAN.as_secs() / COLUMN.as_secs()) as usize + 1;
/// Maximum number of routes of a column; others are counted.
const MOST_ROUTES: usize = 16;
/// Maximum number of errnos of a column; others are counted under 0.
const MOST_ERRNOS: usize = 64;
/// Calls from here on count as slow.
const SLOW_NS: u64 = 1_000_000;

/// An interval that has ended.
#[derive(Clone, Copy)]
pub(crate) struct Ended<'a> {
    /// The report of the interval.
    pub report: &'a Report,
    /// The connect() calls since the start, with those that have no record.
    pub totals: &'a Totals,
    /// Calls below had no record.
    pub min_latency: Duration,
    /// Length of the next interval.
    pub next: Duration,
    /// The level that keeps the overhead limit.
    pub level: Level,
    /// The resources that this process has used since its start.
    pub own: ProcessUsage,
}

/// Times of connect() calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    pub count: u64,
    pub total_ns: u128,
    pub max_ns: u64,
    /// Number of calls by power of ten of their time.
    pub buckets: [u64; BUCKETS],
}

/// The calls of one strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Strategy {
    /// Number of all calls.
    pub connects: u64,
    /// Number of calls that failed.
    pub failed: u64,
    /// Times of the calls that have a record: those of the minimum latency or more, and those that failed.
    pub recorded: Times,
}

/// One or more intervals.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// The end of the last interval.
    pub at: SystemTime,
    pub elapsed: Duration,
    /// Times by the index of [`Outcome`].
    pub times: [Times; Outcome::ALL.len()],
    /// Number of port searches, in the order of [`Search::ALL`].
    pub searches: [u64; Search::ALL.len()],
    /// Calls by strategy, in the order of [`PortChoice::ALL`]; the last are those that failed before a port was chosen.
    pub strategies: [Strategy; PortChoice::INDICES],
    /// Number of failed calls by errno; 0 for others.
    pub failed: BTreeMap<i32, u64>,
    /// The fullest of the routes whose ports run out.
    pub routes: Vec<Exhaustion>,
    /// Number of other routes whose ports run out.
    pub more_routes: u64,
    /// Number of calls that entered.
    pub entered: u64,
    /// Number of calls that were lost.
    pub lost: u64,
    /// Number of runs of programs that the kernel skipped.
    pub skipped: u64,
    /// Number of calls without a record, because of the overhead limit.
    pub unsampled: u64,
    /// Time without probes, because of the overhead limit.
    pub blind: Duration,
    /// CPU time of this process.
    pub own_cpu: Duration,
    /// Run time of the programs, if the kernel measures it.
    pub programs: Option<Duration>,
}

/// The state of the trace as of the last interval.
#[derive(Clone, Debug)]
pub(crate) struct Latest {
    pub kernel: String,
    pub attached: String,
    pub filters: Vec<String>,
    /// The routes that fill up, with `--ports`.
    pub filling: Option<Filling>,
    pub level: Level,
    pub own: ProcessUsage,
    /// True if the account of all calls since the start adds up.
    pub adds_up: bool,
    /// Number of calls that entered, and that were lost, since the start.
    pub entered: u64,
    pub lost: u64,
}

/// Counters that only go up, as of the last interval.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    connects: [u64; PortChoice::INDICES],
    searches: [u64; Search::ALL.len()],
    entered: u64,
    lost: u64,
    skipped: u64,
    unsampled: u64,
    blind: Duration,
    own_cpu: Duration,
}

/// The last quarter of an hour.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// Name of the host, read at the start: a service may not read it later.
    host: String,
    /// Length of an interval.
    interval: Duration,
    /// Calls below have no record.
    min_latency: Duration,
    columns: VecDeque<Column>,
    counters: Counters,
    latest: Option<Latest>,
}

impl History {
    /// Creates an empty history, whose first interval has this length.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            host: kernel::hostname(),
            interval,
            min_latency: Duration::ZERO,
            columns: VecDeque::new(),
            counters: Counters {
                own_cpu: ProcessUsage::now().cpu,
                ..Counters::default()
            },
            latest: None,
        }
    }

    /// Returns the name of the host.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Adds an interval.
    pub(crate) fn add(&mut self, interval: &Ended<'_>) {
        let Ended {
            report, level, own, ..
        } = *interval;
        let counters = Counters::of(interval);
        let column = Column::of(report, &counters.since(&self.counters));
        self.counters = counters;
        self.interval = interval.next;
        self.min_latency = interval.min_latency;
        self.latest = Some(Latest {
            kernel: report.kernel.clone(),
            attached: report.attached.clone(),
            filters: report.filters.clone(),
            filling: report.filling.clone(),
            level,
            own,
            adds_up: report.accounting.adds_up(),
            entered: counters.entered,
            lost: counters.lost,
        });
        match self.columns.back_mut() {
            Some(last) if last.elapsed < COLUMN => last.merge(column),
            _ => self.columns.push_back(column),
        }
        let later = |columns: &VecDeque<Column>| -> Duration {
            columns.iter().skip(1).map(|column| column.elapsed).sum()
        };
        while self.columns.len() > MOST_COLUMNS || later(&self.columns) >= SPAN {
            self.columns.pop_front();
        }
    }

    /// Returns the length of an interval.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns the latency below which calls have no record.
    pub(crate) fn min_latency(&self) -> Duration {
        self.min_latency
    }

    /// Returns the latency from which calls count as slow: a millisecond, or the next power of ten of which all calls have
    /// a record.
    pub(crate) fn slow_ns(&self) -> u64 {
        lower_edge_ns(self.slow_bucket())
    }

    /// Returns the number of slow calls among these.
    pub(crate) fn slow(&self, recorded: &Times) -> u64 {
        recorded.buckets[self.slow_bucket()..].iter().sum()
    }

    fn slow_bucket(&self) -> usize {
        let is_known = |bucket: &usize| {
            let edge = lower_edge_ns(*bucket);
            edge >= SLOW_NS && Duration::from_nanos(edge) >= self.min_latency
        };
        (0..BUCKETS).find(is_known).unwrap_or(BUCKETS - 1)
    }

    /// Returns the columns, the oldest first.
    pub(crate) fn columns(&self) -> impl DoubleEndedIterator<Item = &Column> + ExactSizeIterator {
        self.columns.iter()
    }

    /// Returns the state as of the last interval; `None` before its end.
    pub(crate) fn latest(&self) -> Option<&Latest> {
        self.latest.as_ref()
    }

    /// Returns all columns as one; `None` before the end of the first interval.
    pub(crate) fn whole(&self) -> Option<Column> {
        let mut columns = self.columns.iter().rev().cloned();
        let mut whole = columns.next()?;
        columns.for_each(|earlier| whole.merge_earlier(earlier));
        Some(whole)
    }

    /// Returns the latest columns of ten seconds or more as one, and the number of them.
    pub(crate) fn now(&self) -> Option<(Column, usize)> {
        let mut columns = self.columns.iter().rev().cloned();
        let mut now = columns.next()?;
        let mut merged = 1;
        for earlier in columns {
            if now.elapsed >= COLUMN {
                break;
            }
            now.merge_earlier(earlier);
            merged += 1;
        }
        Some((now, merged))
    }
}

impl Counters {
    fn of(interval: &Ended<'_>) -> Self {
        let accounting = &interval.report.accounting;
        let mut connects = [0; PortChoice::INDICES];
        for (labels, count) in interval.totals.connects() {
            connects[PortChoice::index(labels.strategy)] += count;
        }
        connects[PortChoice::index(None)] += interval.totals.overflown();
        let mut searches = [0; Search::ALL.len()];
        for (search, count) in interval.totals.searches() {
            searches[search as usize] = count;
        }
        Self {
            connects,
            searches,
            entered: accounting.kernel.entered,
            lost: accounting.lost(),
            skipped: accounting.recursion_misses.unwrap_or(0),
            unsampled: accounting.kernel.unsampled,
            blind: accounting.blind,
            own_cpu: interval.own.cpu,
        }
    }

    fn since(&self, earlier: &Self) -> Self {
        let since =
            |now: &[u64], earlier: &[u64], place: usize| now[place].saturating_sub(earlier[place]);
        Self {
            connects: std::array::from_fn(|place| since(&self.connects, &earlier.connects, place)),
            searches: std::array::from_fn(|place| since(&self.searches, &earlier.searches, place)),
            entered: self.entered.saturating_sub(earlier.entered),
            lost: self.lost.saturating_sub(earlier.lost),
            skipped: self.skipped.saturating_sub(earlier.skipped),
            unsampled: self.unsampled.saturating_sub(earlier.unsampled),
            blind: self.blind.saturating_sub(earlier.blind),
            own_cpu: self.own_cpu.saturating_sub(earlier.own_cpu),
        }
    }
}

impl Column {
    /// Returns the failed calls by errno, the most frequent first.
    pub(crate) fn failures(&self) -> Vec<(i32, u64)> {
        let mut all: Vec<_> = self
            .failed
            .iter()
            .map(|(&errno, &count)| (errno, count))
            .collect();
        all.sort_by_key(|&(errno, count)| (Reverse(count), errno));
        all
    }

    fn of(report: &Report, counted: &Counters) -> Self {
        let summary = &report.summary;
        let mut times = [Times::default(); Outcome::ALL.len()];
        times[Outcome::Even.index()].add(&summary.even);
        times[Outcome::Odd.index()].add(&summary.odd);
        times[Outcome::Bound.index()].add(&summary.bound);
        let mut failed: BTreeMap<i32, u64> = BTreeMap::new();
        let of_errnos = summary.failed.iter().map(|(&errno, group)| (errno, group));
        for (errno, group) in of_errnos.chain([(0, &summary.failed_fast)]) {
            times[Outcome::Failed.index()].add(group);
            if group.connect.count() > 0 {
                *failed.entry(errno).or_default() += group.connect.count();
            }
        }
        let mut strategies = [Strategy::default(); PortChoice::INDICES];
        for (strategy, &connects) in strategies.iter_mut().zip(&counted.connects) {
            strategy.connects = connects;
        }
        for (choice, chosen) in summary.port_choices.all() {
            let place = PortChoice::index(choice.map(|key| key.port_choice));
            strategies[place].failed += chosen.failed;
            strategies[place].recorded.add(&chosen.group);
        }
        strategies[PortChoice::index(None)].failed = strategies[PortChoice::index(None)].connects;
        let exhausted = &report.exhausted;
        let routes: Vec<_> = exhausted.routes.iter().take(MOST_ROUTES).copied().collect();
        Self {
            at: report.at,
            elapsed: report.elapsed,
            times,
            searches: counted.searches,
            strategies,
            failed,
            more_routes: (exhausted.routes.len() - routes.len()) as u64 + exhausted.dropped.count,
            routes,
            entered: counted.entered,
            lost: counted.lost,
            skipped: counted.skipped,
            unsampled: counted.unsampled,
            blind: counted.blind,
            own_cpu: counted.own_cpu,
            programs: report.overhead.as_ref().map(|overhead| overhead.run_time()),
        }
    }

    /// Adds what came after.
    fn merge(&mut self, later: Self) {
        let earlier = std::mem::replace(self, later);
        self.merge_earlier(earlier);
    }

    /// Adds what came before.
    fn merge_earlier(&mut self, earlier: Self) {
        self.elapsed += earlier.elapsed;
        for (times, more) in self.times.iter_mut().zip(&earlier.times) {
            times.merge(more);
        }
        for (searches, more) in self.searches.iter_mut().zip(&earlier.searches) {
            *searches += more;
        }
        for (strategy, more) in self.strategies.iter_mut().zip(&earlier.strategies) {
            strategy.connects += more.connects;
            strategy.failed += more.failed;
            strategy.recorded.merge(&more.recorded);
        }
        for (errno, more) in earlier.failed {
            let has_room = self.failed.len() < MOST_ERRNOS || self.failed.contains_key(&errno);
            let errno = if has_room { errno } else { 0 };
            *self.failed.entry(errno).or_default() += more;
        }
        for found in earlier.routes {
            self.merge_route(found);
        }
        self.routes
            .sort_by_key(|found| (Reverse(found.evidence.percent_taken), found.searched));
        let most = self.routes.len().min(MOST_ROUTES);
        let without_room = self.routes.split_off(most).len() as u64;
        // The same routes may be among those of both: the number is the least that is known.
        self.more_routes = self.more_routes.max(earlier.more_routes).max(without_room);
        self.entered += earlier.entered;
        self.lost += earlier.lost;
        self.skipped += earlier.skipped;
        self.unsampled += earlier.unsampled;
        self.blind += earlier.blind;
        self.own_cpu += earlier.own_cpu;
        self.programs = match (self.programs, earlier.programs) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }

    fn merge_route(&mut self, earlier: Exhaustion) {
        let is_same = |found: &&mut Exhaustion| found.searched == earlier.searched;
        match self.routes.iter_mut().find(is_same) {
            Some(found) => found.evidence.add(&earlier.evidence),
            None => self.routes.push(earlier),
        }
    }

    /// Returns the number of connect() calls.
    pub(crate) fn connects(&self) -> u64 {
        self.times.iter().map(|times| times.count).sum()
    }

    /// Returns the times of all calls.
    pub(crate) fn all_times(&self) -> Times {
        let mut all = Times::default();
        self.times.iter().for_each(|times| all.merge(times));
        all
    }

    /// Returns the number of searches of a kind.
    pub(crate) fn searches_of(&self, search: Search) -> u64 {
        self.searches[search as usize]
    }
}

impl Times {
    fn add(&mut self, group: &Group) {
        let times = &group.connect;
        self.merge(&Self {
            count: times.count(),
            total_ns: times.total_ns(),
            max_ns: times.max_ns().unwrap_or(0),
            buckets: *times.buckets(),
        });
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.total_ns += other.total_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        for (all, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *all += more;
        }
    }

    /// Returns the longest time in nanoseconds; `None` without a time.
    pub(crate) fn slowest_ns(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max_ns as f64)
    }

    /// Returns the mean in nanoseconds; `None` without a time.
    pub(crate) fn mean_ns(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total_ns as f64 / self.count as f64)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        connect::{Connect, SourcePort},
        fixtures::connect_from,
        live::stage::Stage,
    };

    /// Returns a connect() that found 90 % of the ports of its route taken.
    pub(crate) fn on_full(netns: u32) -> Connect {
        Connect {
            netns: Some(netns),
            scanned: Some(1_801),
            connect_ns: 2_000_000,
            ..connect_from(20_001)
        }
    }

    #[test]
    fn a_quarter_of_an_hour_is_kept_whatever_the_interval_is() {
        for (seconds, columns) in [(1, 90), (3, 75), (10, 90), (60, 15), (7_200, 1)] {
            let mut made = Stage::new(Duration::from_secs(seconds));
            for _ in 0..2_000 {
                made.add(&[connect_from(20_000)]);
            }
            let history = &made.history;
            assert!(history.columns().len() <= MOST_COLUMNS);
            assert_eq!(history.columns().len(), columns, "{seconds} s");
            let whole = history.whole().unwrap();
            assert!(whole.elapsed >= SPAN, "{seconds} s");
            assert_eq!(whole.connects(), whole.elapsed.as_secs() / seconds);
            assert_eq!(whole.at, made.at);
        }
    }

    #[test]
    fn now_is_ten_seconds_or_more() {
        let mut made = Stage::new(Duration::from_secs(1));
        for second in 1..=25 {
            made.add(&[connect_from(20_000)]);
            let (now, _) = made.history.now().unwrap();
            let least = second.min(10);
            assert!((least..20).contains(&now.elapsed.as_secs()), "{now:?}");
        }
    }

    #[test]
    fn a_column_has_each_call_by_outcome_and_by_strategy() {
        let mut made = Stage::new(Duration::from_secs(10));
        let failed = |errno, port_choice| Connect {
            errno,
            port_choice,
            port: SourcePort::None,
            ..connect_from(0)
        };
        let calls = [
            connect_from(20_000),
            on_full(1),
            Connect {
                port: SourcePort::Bound(80),
                port_choice: Some(PortChoice::Bind),
                ..connect_from(0)
            },
            failed(libc::EADDRNOTAVAIL, Some(PortChoice::Default)),
            failed(libc::ENETUNREACH, None),
        ];
        made.add(&calls);
        made.add(&calls[..1]);
        let whole = made.history.whole().unwrap();
        assert_eq!(whole.times.map(|times| times.count), [2, 1, 1, 2]);
        assert_eq!(whole.all_times().max_ns, 2_000_000);
        let strategies = whole.strategies.map(|one| (one.connects, one.failed));
        assert_eq!(strategies, [(0, 0), (1, 0), (0, 0), (0, 0), (4, 1), (1, 1)]);
        let failed: Vec<_> = whole.failed.into_iter().collect();
        assert_eq!(failed, [(libc::EADDRNOTAVAIL, 1), (libc::ENETUNREACH, 1)]);
        assert_eq!(whole.searches, [2, 1, 0, 1]);
        let last = made.history.columns().last().unwrap();
        assert_eq!((last.connects(), last.searches), (1, [1, 0, 0, 0]));
    }

    #[test]
    fn calls_without_a_record_count_for_their_strategy() {
        let mut made = Stage::new(Duration::from_secs(10));
        made.add(&[connect_from(20_000), connect_from(20_002), on_full(1)]);
        let whole = made.history.whole().unwrap();
        let default = whole.strategies[4];
        assert_eq!((default.connects, default.recorded.count), (3, 1));
        assert_eq!(whole.times.map(|times| times.count), [2, 1, 0, 0]);
    }

    #[test]
    fn routes_are_bounded_and_the_fullest_stay() {
        let mut made = Stage::new(Duration::from_secs(1));
        for second in 0..10 {
            let calls: Vec<_> = (0..40).map(|netns| on_full(40 * second + netns)).collect();
            made.add(&calls);
        }
        let fuller = Connect {
            scanned: Some(1_961),
            ..on_full(7_000)
        };
        made.add(&[fuller, on_full(0)]);
        let whole = made.history.whole().unwrap();
        assert_eq!(whole.routes.len(), MOST_ROUTES);
        assert_eq!(whole.routes[0].searched.route.netns, Some(7_000));
        assert!(whole.more_routes >= 24, "{}", whole.more_routes);
    }

    #[test]
    fn errnos_are_bounded_and_no_failure_is_left_out() {
        let mut made = Stage::new(Duration::from_millis(10));
        for first in (1..=1_000).step_by(20) {
            let failed = |errno| Connect {
                errno,
                port: SourcePort::None,
                ..connect_from(0)
            };
            let calls: Vec<_> = (first..first + 20).map(failed).collect();
            made.add(&calls);
        }
        let whole = made.history.whole().unwrap();
        assert!(whole.failed.len() <= MOST_ERRNOS + 1, "{:?}", whole.failed);
        assert_eq!(whole.failed.values().sum::<u64>(), 1_000);
    }

    #[test]
    fn counters_are_those_of_the_interval() {
        let mut made = Stage::new(Duration::from_secs(10));
        made.side.accounting.kernel.ring_full = 3;
        made.add(&[]);
        made.side.accounting.kernel.ring_full = 5;
        made.side.accounting.blind = Duration::from_secs(2);
        made.add(&[]);
        let lost: Vec<_> = made.history.columns().map(|column| column.lost).collect();
        assert_eq!(lost, [3, 2]);
        let (now, merged) = made.history.now().unwrap();
        assert_eq!((now.blind.as_secs(), merged), (2, 1));
        assert_eq!(made.history.latest().unwrap().lost, 5);
    }

    #[test]
    fn slow_begins_where_every_call_has_a_record() {
        let of = |min_latency| {
            let mut history = History::new(COLUMN);
            history.min_latency = Duration::from_micros(min_latency);
            history.slow_ns()
        };
        assert_eq!(
            [100, 1_000, 1_001].map(of),
            [1_000_000, 1_000_000, 10_000_000]
        );
        assert_eq!(of(100_000_000), 10_000_000_000);
    }
}
