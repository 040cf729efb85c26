//! The live page: the history as HTML, for the one who is called at night. Texts from the network and from the kernel are
//! escaped.

use std::{fmt::Write as _, time::Duration};

use super::{
    history::{Column, History, Latest, SPAN, Strategy},
    request::Answer,
    verdict::{self, Severity, findings, last},
};
use crate::{
    clock::Time,
    connect::{Outcome, PortChoice},
    figures::{
        charts::{
            Place,
            heatmap::{HeatMap, heatmap, rows},
            shares::{Shares, shares},
            timeline::{Line, MOST_LINES, Slot, Timeline, timeline},
        },
        html::filled,
        live::{SCRIPT, TEMPLATE, style},
    },
    overhead::core_percent,
    stats::exhaustion::{Exhaustion, Route},
    term::{
        errno,
        escape::markup,
        numbers::{count, plain, tenths, time},
    },
};

/// Maximum number of routes in the table.
const MOST_ROUTES: usize = 20;
/// Limits of the time between two refreshes, in seconds.
const PERIOD: (u64, u64) = (1, 60);
/// Minutes before the end that have a tick.
const TICKS: [u64; 4] = [15, 10, 5, 0];

/// Returns the page. `nonce` allows its script and its style.
pub(super) fn answer(history: &History, nonce: u128) -> Answer {
    Answer {
        status: 200,
        content_type: "text/html; charset=utf-8",
        body: html(history, nonce).into_bytes(),
    }
}

fn html<'a>(history: &'a History, nonce: u128) -> String {
    let host = markup(history.host());
    let found = findings(history);
    let worst = &found[0];
    let page = history.whole().map(|whole| Page::new(history, whole));
    let of = |part: fn(&Page<'a>) -> String| page.as_ref().map_or_else(nothing, part);
    filled(TEMPLATE, |part| match part {
        "period" => period(history.interval()).to_string(),
        "nonce" => format!("{nonce:032x}"),
        "style" => style(),
        "script" => SCRIPT.to_owned(),
        "version" => env!("CARGO_PKG_VERSION").to_owned(),
        "host" => host.clone(),
        "title" => format!("{} - {host} - connect-trace", markup(&worst.title)),
        "severity" => class(worst.severity).to_owned(),
        "headline" => markup(&worst.title),
        "verdict" => verdict(&found),
        "at" => of(Page::at),
        "heat" => of(Page::heat),
        "latency-table" => of(Page::latency_table),
        "routes" => of(Page::routes),
        "routes-table" => of(Page::routes_table),
        "strategies" => of(Page::strategies),
        "strategies-table" => of(Page::strategies_table),
        "losses" => of(Page::losses),
        "cost" => of(Page::cost),
        "trace" => of(Page::trace),
        _ => String::new(),
    })
}

/// Returns the seconds between two refreshes.
fn period(interval: Duration) -> u64 {
    let (least, most) = PERIOD;
    (interval.as_secs_f64().ceil() as u64).clamp(least, most)
}

fn nothing() -> String {
    "The first interval has not ended.".to_owned()
}

fn class(severity: Severity) -> &'static str {
    match severity {
        Severity::Wrong => "wrong",
        Severity::Notable => "notable",
        Severity::Fine => "fine",
    }
}

/// Returns the text of the worst finding, and a list of the others.
fn verdict(found: &[verdict::Finding]) -> String {
    let (worst, others) = found.split_first().expect("there is always a finding");
    let mut html = format!("<p>{}</p>", markup(&worst.text));
    if !others.is_empty() {
        let item = |finding: &verdict::Finding| {
            format!(
                r#"<li class="{}"><b>{}.</b> {}</li>"#,
                class(finding.severity),
                markup(&finding.title),
                markup(&finding.text)
            )
        };
        let items: String = others.iter().map(item).collect();
        let _ = write!(html, "<ul>{items}</ul>");
    }
    html
}

/// The history, and what all parts of the page need of it.
struct Page<'a> {
    history: &'a History,
    columns: Vec<&'a Column>,
    whole: Column,
    latest: &'a Latest,
    slots: Vec<Slot>,
    ticks: Vec<(f64, String)>,
}

impl<'a> Page<'a> {
    fn new(history: &'a History, whole: Column) -> Self {
        let columns: Vec<_> = history.columns().collect();
        // The span is the time axis. Positions are those of the monotonic clock, because the time of day can be set.
        let share = |before: Duration| 1.0 - before.as_secs_f64() / SPAN.as_secs_f64();
        let mut before = Duration::ZERO;
        let mut slots: Vec<_> = columns
            .iter()
            .rev()
            .map(|column| {
                let to = share(before);
                before += column.elapsed;
                Slot {
                    from: share(before).max(0.0),
                    to,
                    at: Time::from(column.at).of_day(),
                }
            })
            .collect();
        slots.reverse();
        let end = Time::from(whole.at);
        let ticks = TICKS
            .into_iter()
            .map(|minutes| {
                let before = Duration::from_secs(60 * minutes);
                let mut label = end.before(before).of_day();
                label.truncate("HH:MM".len());
                (share(before), label)
            })
            .collect();
        let latest = history.latest().expect("there is a column");
        Self {
            history,
            columns,
            whole,
            latest,
            slots,
            ticks,
        }
    }

    fn at(&self) -> String {
        Time::from(self.whole.at).date_and_time()
    }

    fn heat(&self) -> String {
        let of = |outcome: Outcome| -> Vec<_> {
            let counts = self.columns.iter();
            counts
                .map(|column| column.times[outcome.index()].buckets)
                .collect()
        };
        let all: Vec<_> = Outcome::ALL.into_iter().flat_map(of).collect();
        let rows = rows(all.iter());
        let shown = |outcome: &Outcome| {
            matches!(outcome, Outcome::Even | Outcome::Odd)
                || self.whole.times[outcome.index()].count > 0
        };
        let map = |outcome: Outcome| {
            let times = &self.whole.times[outcome.index()];
            let map = HeatMap {
                outcome,
                slots: &self.slots,
                counts: of(outcome),
                rows,
            };
            let title = match outcome {
                Outcome::Even => "Even ports",
                Outcome::Odd => "Odd ports",
                Outcome::Bound => "No search: the socket had a port",
                Outcome::Failed => "Failed",
            };
            format!(
                "<figure><figcaption>{title}: {}</figcaption>{}</figure>",
                count(times.count),
                heatmap(Place::Page, &map, &self.ticks)
            )
        };
        Outcome::ALL.into_iter().filter(shown).map(map).collect()
    }

    fn latency_table(&self) -> String {
        let slow = time(self.history.slow_ns() as f64);
        let slow = format!("{slow} or more");
        let heads = [
            "until",
            "even",
            "mean",
            &slow,
            "odd",
            "mean",
            &slow,
            "no search",
            "failed",
            "slowest",
        ];
        let row = |column: &&Column| {
            let [even, odd, bound, failed] = &column.times;
            let mut cells = Vec::new();
            for times in [even, odd] {
                let slow = self.history.slow(times);
                cells.extend([count(times.count), or_dash(times.mean_ns()), count(slow)]);
            }
            let slowest = column.all_times();
            let slowest = (slowest.count > 0).then_some(slowest.max_ns as f64);
            cells.extend([count(bound.count), count(failed.count), or_dash(slowest)]);
            (Time::from(column.at).of_day(), cells)
        };
        table(&heads, self.columns.iter().rev().map(row))
    }

    /// Returns the routes of the history: the fullest now, then the fullest before.
    fn all_routes(&self) -> Vec<Exhaustion> {
        let now = self.columns.last().map_or(&[][..], |column| &column.routes);
        let is_now = |route: &Route| now.iter().any(|found| found.route == *route);
        let mut routes = self.whole.routes.clone();
        // The sort keeps the order of equal elements, which is by fullness.
        routes.sort_by_key(|found| !is_now(&found.route));
        routes
    }

    fn routes(&self) -> String {
        let routes = self.all_routes();
        if routes.is_empty() {
            return "<p>No search found half of its ports taken.</p>".to_owned();
        }
        let taken = |found: &Exhaustion| Line {
            name: format!(
                "{} \u{2192} {}",
                found.route.source, found.route.destination
            ),
            values: self
                .columns
                .iter()
                .map(|column| {
                    let mut all = column.routes.iter();
                    let seen = all.find(|seen| seen.route == found.route)?;
                    Some(f64::from(seen.evidence.percent_taken))
                })
                .collect(),
        };
        let lines: Vec<_> = routes.iter().take(MOST_LINES).map(taken).collect();
        let chart = Timeline {
            label: "Share of the ports in use, by route, over the last quarter of an hour",
            axis: "ports in use, at least (nothing is known below 50 %)",
            unit: " %",
            high: 100.0,
            slots: &self.slots,
            lines: &lines,
        };
        let mut html = timeline(Place::Page, &chart, &self.ticks);
        if let Some(found) = routes.first() {
            let _ = write!(
                html,
                "<p>Which ports are taken: <code>connect-trace explain {}</code>{}.</p>",
                markup(&found.route.destination.to_string()),
                match found.route.netns {
                    Some(_) => ", in the network namespace of the client",
                    None => "",
                }
            );
        }
        html
    }

    fn routes_table(&self) -> String {
        let routes = self.all_routes();
        let until = |route: &Route| {
            let mut columns = self.columns.iter().rev();
            let seen = |column: &&&Column| column.routes.iter().any(|found| found.route == *route);
            let column = columns.find(seen);
            column.map_or_else(|| "-".to_owned(), |column| Time::from(column.at).of_day())
        };
        let row = |Exhaustion { route, evidence }: &Exhaustion| {
            let own = if route.own_range { " (own)" } else { "" };
            let cells = vec![
                format!("{} %", evidence.percent_taken),
                count(evidence.connects),
                count(evidence.failed),
                format!("{}{own}", evidence.range),
                route
                    .netns
                    .map_or_else(|| "-".to_owned(), |netns| netns.to_string()),
                until(route),
            ];
            (
                format!("{} \u{2192} {}", route.source, route.destination),
                cells,
            )
        };
        let heads = [
            "route",
            "in use",
            "calls",
            "failed",
            "range",
            "namespace",
            "last seen",
        ];
        let mut html = table(&heads, routes.iter().take(MOST_ROUTES).map(row));
        if self.whole.more_routes > 0 {
            let _ = write!(
                html,
                "<p>And at least {} more.</p>",
                count(self.whole.more_routes)
            );
        }
        html
    }

    /// Returns the strategies with calls, and their names.
    fn all_strategies(&self) -> Vec<(&'static str, Strategy)> {
        let names = PortChoice::ALL.map(PortChoice::name);
        let names = names.into_iter().chain(["before the choice"]);
        let all = names.zip(self.whole.strategies);
        let mut all: Vec<_> = all.filter(|(_, strategy)| strategy.connects > 0).collect();
        all.sort_by_key(|(_, strategy)| std::cmp::Reverse(strategy.connects));
        all
    }

    fn strategies(&self) -> String {
        let all = self.all_strategies();
        if all.is_empty() {
            return "<p>No connect() call.</p>".to_owned();
        }
        // The powers of ten of records from the first that is not below the minimum latency, in milliseconds.
        let first = (self.history.slow_ns().ilog10()) as usize;
        let edges = [first, first + 1].map(|power| time(10_f64.powi(power as i32)));
        let minimum = time(self.history.min_latency().as_nanos() as f64);
        let parts = [
            format!("below {minimum}"),
            format!("below {}", edges[0]),
            format!("below {}", edges[1]),
            format!("{} or more", edges[1]),
        ];
        let bar = |(name, strategy): &(&str, Strategy)| {
            let recorded = &strategy.recorded;
            let sum = |from: usize, to: usize| -> u64 {
                let to = to.min(recorded.buckets.len());
                recorded
                    .buckets
                    .get(from..to)
                    .unwrap_or_default()
                    .iter()
                    .sum()
            };
            Shares {
                name: (*name).to_owned(),
                counts: vec![
                    strategy.connects.saturating_sub(recorded.count),
                    sum(0, first),
                    sum(first, first + 1),
                    sum(first + 1, usize::MAX),
                ],
            }
        };
        let bars: Vec<_> = all.iter().map(bar).collect();
        let label = "Speed of connect() calls by strategy over the last quarter of an hour";
        shares(Place::Page, label, &parts, &bars)
    }

    fn strategies_table(&self) -> String {
        let slow = format!("{} or more", time(self.history.slow_ns() as f64));
        let heads = ["strategy", "calls", "calls/s", &slow, "failed", "slowest"];
        let seconds = self.whole.elapsed.as_secs_f64();
        let row = |(name, strategy): (&str, Strategy)| {
            let recorded = &strategy.recorded;
            let rate = strategy.connects as f64 / seconds.max(1e-9);
            let cells = vec![
                count(strategy.connects),
                tenths(rate),
                percent(self.history.slow(recorded), strategy.connects),
                count(strategy.failed),
                or_dash((recorded.count > 0).then_some(recorded.max_ns as f64)),
            ];
            (name.to_owned(), cells)
        };
        table(&heads, self.all_strategies().into_iter().map(row))
    }

    fn losses(&self) -> String {
        let Self { whole, latest, .. } = self;
        let mut list = List::default();
        let errnos = whole.failures();
        if errnos.is_empty() {
            list.add("Failed", "none");
        }
        for (errno, failures) in errnos {
            list.add(&format!("Failed, {}", errno::name(errno)), &count(failures));
        }
        list.of_zero("Lost", whole.lost);
        list.of_zero("Lost since the start", latest.lost);
        list.of_zero("Programs skipped by the kernel", whole.skipped);
        if whole.unsampled > 0 {
            list.add("Counted without a record", &count(whole.unsampled));
        }
        if !whole.blind.is_zero() {
            let seconds = tenths(whole.blind.as_secs_f64());
            list.add_bad("Probes detached", &format!("{seconds} s"));
        }
        match latest.adds_up {
            true => list.add("Account", "every call is accounted for"),
            false => list.add_bad("Account", "INCOMPLETE: it does not add up"),
        }
        list.add("Calls since the start", &count(latest.entered));
        format!("<p>In the last {}.</p>{}", last(whole.elapsed), list.html())
    }

    fn cost(&self) -> String {
        let Self { whole, latest, .. } = self;
        let mut list = List::default();
        let of_core =
            |cpu: Duration| format!("{} % of a core", plain(core_percent(cpu, whole.elapsed)));
        list.add("connect-trace itself", &of_core(whole.own_cpu));
        let programs = whole
            .programs
            .map_or_else(|| "not measured without --max-overhead".to_owned(), of_core);
        list.add("Programs in the kernel", &programs);
        list.add("Traced", &latest.level.to_string());
        let mib = |bytes: u64| format!("{} MiB", tenths(bytes as f64 / 1_048_576.0));
        list.add("Memory", &mib(latest.own.resident_bytes));
        let of = |cpu: fn(&Column) -> Option<Duration>| -> Vec<_> {
            let columns = self.columns.iter();
            columns
                .map(|column| cpu(column).map(|cpu| core_percent(cpu, column.elapsed)))
                .collect()
        };
        let mut lines = vec![Line {
            name: "connect-trace itself".to_owned(),
            values: of(|column| Some(column.own_cpu)),
        }];
        if whole.programs.is_some() {
            lines.push(Line {
                name: "programs in the kernel".to_owned(),
                values: of(|column| column.programs),
            });
        }
        let values = lines.iter().flat_map(|line| line.values.iter().flatten());
        let chart = Timeline {
            label: "Cost of the tracer over the last quarter of an hour",
            axis: "share of one core",
            unit: " %",
            high: values.copied().fold(0.0, f64::max) * 1.1,
            slots: &self.slots,
            lines: &lines,
        };
        format!(
            "{}{}",
            list.html(),
            timeline(Place::Page, &chart, &self.ticks)
        )
    }

    fn trace(&self) -> String {
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
        markup(&format!("Linux {kernel}, attached by {attached}{only}."))
    }
}

/// Terms and values.
#[derive(Default)]
struct List(String);

impl List {
    fn add(&mut self, term: &str, value: &str) {
        self.push(term, value, "");
    }

    fn add_bad(&mut self, term: &str, value: &str) {
        self.push(term, value, r#" class="bad""#);
    }

    /// Adds a count that should be zero.
    fn of_zero(&mut self, term: &str, value: u64) {
        match value {
            0 => self.add(term, "none"),
            value => self.add_bad(term, &count(value)),
        }
    }

    fn push(&mut self, term: &str, value: &str, class: &str) {
        let (term, value) = (markup(term), markup(value));
        let _ = write!(self.0, "<div><dt>{term}</dt><dd{class}>{value}</dd></div>");
    }

    fn html(&self) -> String {
        format!("<dl>{}</dl>", self.0)
    }
}

/// Returns a table with a heading for each row.
fn table(heads: &[&str], rows: impl Iterator<Item = (String, Vec<String>)>) -> String {
    let head = |head: &&str| format!(r#"<th scope="col">{}</th>"#, markup(head));
    let row = |(name, cells): (String, Vec<String>)| {
        let cell = |cell: &String| format!("<td>{}</td>", markup(cell));
        let cells: String = cells.iter().map(cell).collect();
        format!(r#"<tr><th scope="row">{}</th>{cells}</tr>"#, markup(&name))
    };
    let heads: String = heads.iter().map(head).collect();
    let rows: String = rows.map(row).collect();
    format!("<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
}

fn or_dash(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), time)
}

fn percent(part: u64, all: u64) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, SourcePort},
        fixtures::connect_from,
        serve::{history::tests::on_full, rehearsal::Stage},
        stats::{Collection, Traced, by::By},
    };

    fn page(made: &Stage) -> String {
        html(&made.history, 7)
    }

    #[test]
    fn every_part_of_the_template_is_known() {
        let mut made = Stage::new(Duration::from_secs(10));
        let before = page(&made);
        assert!(!before.contains("{{"), "{before}");
        assert!(before.contains("Tracing has begun</h1>"), "{before}");
        made.add(&[connect_from(20_000)]);
        let html = page(&made);
        assert!(!html.contains("{{"), "{html}");
        assert!(html.contains("All is well</h1>"), "{html}");
        assert_eq!(
            html.matches(r#"nonce="00000000000000000000000000000007""#)
                .count(),
            2
        );
        assert!(html.contains("Even ports: 1</figcaption>"), "{html}");
        assert!(!html.contains("Failed: "), "{html}");
    }

    #[test]
    fn a_route_that_fills_up_is_in_the_sentence_in_the_chart_and_in_the_table() {
        let mut made = Stage::new(Duration::from_secs(10));
        made.add(&[connect_from(20_000)]);
        let out = Connect {
            errno: libc::EADDRNOTAVAIL,
            port: SourcePort::None,
            ..on_full(7)
        };
        made.add(&[on_full(7), out]);
        let html = page(&made);
        for part in [
            r#"class="wrong" aria-live="polite">Ports have run out from 127.0.0.1 to 127.0.0.1:443</h1>"#,
            "127.0.0.1 \u{2192} 127.0.0.1:443: 100 % until ",
            r#"<th scope="row">127.0.0.1 → 127.0.0.1:443</th><td>100 %</td><td>2</td><td>1</td><td>20000-21999</td><td>7</td>"#,
            "<dt>Failed, EADDRNOTAVAIL</dt><dd>1</dd>",
            "<code>connect-trace explain 127.0.0.1:443</code>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }

    #[test]
    fn strategies_are_split_by_speed_and_add_up() {
        let mut made = Stage::new(Duration::from_secs(10));
        let slow = |connect_ns| Connect {
            connect_ns,
            ..connect_from(20_000)
        };
        made.add(&[
            slow(200_000),
            slow(2_000_000),
            slow(20_000_000),
            slow(3_000_000),
        ]);
        let html = page(&made);
        for part in [
            "default, below 1 ms: 1, 25 %",
            "default, below 10 ms: 2, 50 %",
            "default, 10 ms or more: 1, 25 %",
            r#"<th scope="row">default</th><td>4</td><td>0.4</td><td>75 %</td><td>0</td><td>20 ms</td>"#,
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }

    #[test]
    fn no_text_of_the_trace_gets_into_the_markup() {
        const HOSTILE: &str = "</script><img src=x onerror=\"alert('1')\">&amp;{{script}}\u{202e}";
        let mut made = Stage::new(Duration::from_secs(10));
        made.add(&[connect_from(20_000)]);
        let traced = Traced {
            kernel: HOSTILE.to_owned(),
            attached: HOSTILE.to_owned(),
            filters: vec![HOSTILE.to_owned()],
        };
        let mut collection = Collection::new(traced, By::Parity, 1);
        let at = std::time::SystemTime::UNIX_EPOCH;
        let report = collection.take(at, Duration::from_secs(10), None, made.side.clone());
        made.history.add(&super::super::history::Ended {
            report: &report,
            totals: &made.totals,
            min_latency: Duration::ZERO,
            next: Duration::from_secs(10),
            level: crate::overhead::limiter::Level::Full,
            own: Default::default(),
        });
        let html = page(&made);
        assert!(
            !html.contains("<img") && !html.contains('\u{202e}'),
            "{html}"
        );
        assert_eq!(html.matches("</script>").count(), 1);
        assert!(html.contains("{{script}}"), "a name is no template");
    }

    #[test]
    fn the_page_is_bounded_whatever_comes() {
        let mut made = Stage::new(Duration::from_secs(10));
        for column in 0..100_u32 {
            let mut connects = Vec::new();
            for power in 0..11 {
                for port in [20_000, 20_001] {
                    let connect_ns = 10_u64.pow(power);
                    connects.push(Connect {
                        connect_ns,
                        ..connect_from(port)
                    });
                    connects.push(Connect {
                        connect_ns,
                        port: SourcePort::Bound(port),
                        ..connect_from(port)
                    });
                    connects.push(Connect {
                        connect_ns,
                        errno: power as i32 + 1,
                        port: SourcePort::None,
                        ..connect_from(port)
                    });
                }
            }
            connects.extend((0..100).map(|netns| on_full(100 * column + netns)));
            made.add(&connects);
        }
        let bytes = page(&made).len();
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }

    #[test]
    fn a_refresh_comes_with_each_interval_but_once_a_minute_at_least() {
        let periods = [0.01, 1.0, 9.5, 3_600.0].map(|s| period(Duration::from_secs_f64(s)));
        assert_eq!(periods, [1, 1, 10, 60]);
    }

    #[test]
    fn a_small_share_is_not_nothing() {
        let shares = [(0, 10), (1, 3), (1, 100_000), (0, 0)].map(|(part, all)| percent(part, all));
        assert_eq!(shares, ["0 %", "33.3 %", "below 0.1 %", "-"]);
    }
}
