//! The live page: the history as HTML, for the one who is called at night. Texts from the network and from the kernel are
//! escaped.

use std::{fmt::Write as _, time::Duration};

use super::request::Answer;
use crate::{
    clock::Time,
    connect::Outcome,
    figures::{
        charts::{
            Place,
            heatmap::{HeatMap, heatmap},
            port_map,
            shares::{Shares, shares},
            timeline::{Line, MOST_LINES, Slot, Timeline, timeline},
        },
        html::filled,
        live::{SCRIPT, TEMPLATE, style},
    },
    live::{
        history::{Column, History, SPAN, Strategy},
        verdict::{self, Severity, findings, last},
        view::{self, Fact, View, or_dash, percent},
    },
    report::filling::forecast_words,
    stats::{exhaustion::Exhaustion, filling::FillingRoute, route_ports::HolderPorts},
    term::{
        escape::markup,
        numbers::{count, tenths},
    },
};

/// Maximum number of routes in the table.
const MOST_ROUTES: usize = 20;
/// Maximum number of maps of routes.
const MOST_MAPS: usize = 3;
/// Maximum number of holders of a route in the table.
const MOST_HOLDERS: usize = 10;
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
    let page = View::of(history).map(Page::new);
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
        "ports" => of(Page::ports),
        "holders-table" => of(Page::holders_table),
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

/// The view, and what all parts of the page need of it.
struct Page<'a> {
    view: View<'a>,
    slots: Vec<Slot>,
    ticks: Vec<(f64, String)>,
}

impl<'a> Page<'a> {
    fn new(view: View<'a>) -> Self {
        // The span is the time axis. Positions are those of the monotonic clock, because the time of day can be set.
        let share = |before: Duration| 1.0 - before.as_secs_f64() / SPAN.as_secs_f64();
        let mut before = Duration::ZERO;
        let mut slots: Vec<_> = view
            .columns
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
        let end = Time::from(view.whole.at);
        let ticks = TICKS
            .into_iter()
            .map(|minutes| {
                let before = Duration::from_secs(60 * minutes);
                let mut label = end.before(before).of_day();
                label.truncate("HH:MM".len());
                (share(before), label)
            })
            .collect();
        Self { view, slots, ticks }
    }

    fn at(&self) -> String {
        Time::from(self.view.whole.at).date_and_time()
    }

    fn heat(&self) -> String {
        let rows = self.view.buckets();
        let map = |outcome: Outcome| {
            let times = &self.view.whole.times[outcome.index()];
            let map = HeatMap {
                outcome,
                slots: &self.slots,
                counts: self
                    .view
                    .course(|column| column.times[outcome.index()].buckets),
                rows,
            };
            format!(
                "<figure><figcaption>{}: {}</figcaption>{}</figure>",
                view::title(outcome),
                count(times.count),
                heatmap(Place::Page, &map, &self.ticks)
            )
        };
        self.view.outcomes().into_iter().map(map).collect()
    }

    fn latency_table(&self) -> String {
        let slow = self.view.slow_words();
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
                let slow = self.view.history.slow(times);
                cells.extend([count(times.count), or_dash(times.mean_ns()), count(slow)]);
            }
            let slowest = column.all_times().slowest_ns();
            cells.extend([count(bound.count), count(failed.count), or_dash(slowest)]);
            (Time::from(column.at).of_day(), cells)
        };
        table(&heads, self.view.columns.iter().rev().map(row))
    }

    fn routes(&self) -> String {
        let routes = self.view.routes();
        if routes.is_empty() {
            return format!("<p>{}</p>", view::NO_ROUTE);
        }
        let taken = |found: &Exhaustion| Line {
            name: view::route_name(&found.searched.route),
            values: self
                .view
                .course(|column| column.percent_taken(&found.searched).map(f64::from)),
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
                markup(&found.searched.route.destination.to_string()),
                match found.searched.route.netns {
                    Some(_) => ", in the network namespace of the client",
                    None => "",
                }
            );
        }
        html
    }

    fn routes_table(&self) -> String {
        let routes = self.view.routes();
        let row = |Exhaustion { searched, evidence }: &Exhaustion| {
            let route = &searched.route;
            let own = if searched.own_range { " (own)" } else { "" };
            let cells = vec![
                format!("{} %", evidence.percent_taken),
                count(evidence.connects),
                count(evidence.failed),
                format!("{}{own}", evidence.range),
                route
                    .netns
                    .map_or_else(|| "-".to_owned(), |netns| netns.to_string()),
                self.view
                    .last_seen(searched)
                    .map_or_else(|| "-".to_owned(), |at| Time::from(at).of_day()),
            ];
            (view::route_name(route), cells)
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
        let more_routes = self.view.whole.more_routes;
        if more_routes > 0 {
            let _ = write!(html, "<p>And at least {} more.</p>", count(more_routes));
        }
        html
    }

    /// Returns the maps of the fullest routes, with their holders and ends.
    fn ports(&self) -> String {
        let Some(filling) = &self.view.latest.filling else {
            return "<p>Not known: the service runs without <code>--ports</code>.</p>".to_owned();
        };
        if filling.routes.is_empty() {
            return "<p>No route holds a tenth of its ports.</p>".to_owned();
        }
        let mut html = String::new();
        for route in filling.routes.iter().take(MOST_MAPS) {
            let _ = write!(
                html,
                "<figure><figcaption>{}</figcaption>{}</figure><p>{}.</p>",
                markup(&view::route_name(&route.ports.route)),
                port_map(Place::Page, &route.ports),
                markup(&forecast_words(&route.forecast))
            );
            if let Some(why) = &route.records_alone {
                let _ = write!(
                    html,
                    "<p>Only connections since the start: {}.</p>",
                    markup(why)
                );
            }
        }
        let more = filling.more + filling.routes.len().saturating_sub(MOST_MAPS) as u64;
        if more > 0 {
            let _ = write!(html, "<p>And {} more.</p>", count(more));
        }
        html
    }

    fn holders_table(&self) -> String {
        let filling = self.view.latest.filling.as_ref();
        let routes = filling.into_iter().flat_map(|filling| &filling.routes);
        let row = |route: &FillingRoute, held: &HolderPorts| {
            let holder = &held.holder;
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let path = |id: u64| {
                let path = filling.and_then(|filling| filling.cgroups.get(&id).cloned());
                path.unwrap_or_else(|| format!("{id} (removed)"))
            };
            let cells = vec![
                or_dash(holder.pid.map(|pid| pid.to_string())),
                or_dash(holder.comm.map(|comm| comm.to_string())),
                count(held.ports.open.into()),
                count(held.ports.time_wait.into()),
                or_dash(holder.port_choice.map(|choice| choice.name().to_owned())),
                or_dash(holder.cgroup_id.map(path)),
            ];
            (view::route_name(&route.ports.route), cells)
        };
        let rows = routes.take(MOST_MAPS).flat_map(|route| {
            let holders = route.ports.holders.iter().take(MOST_HOLDERS);
            holders.map(move |held| row(route, held))
        });
        let heads = [
            "route",
            "process",
            "name",
            "open",
            "TIME_WAIT",
            "strategy",
            "cgroup",
        ];
        table(&heads, rows)
    }

    fn strategies(&self) -> String {
        let all = self.view.whole.strategies();
        if all.is_empty() {
            return format!("<p>{}</p>", view::NO_CALL);
        }
        let bar = |(name, strategy): &(&str, Strategy)| Shares {
            name: (*name).to_owned(),
            counts: self.view.by_speed(strategy).into(),
        };
        let bars: Vec<_> = all.iter().map(bar).collect();
        let label = "Speed of connect() calls by strategy over the last quarter of an hour";
        shares(Place::Page, label, &self.view.speeds(), &bars)
    }

    fn strategies_table(&self) -> String {
        let slow = self.view.slow_words();
        let heads = ["strategy", "calls", "calls/s", &slow, "failed", "slowest"];
        let row = |(name, strategy): (&str, Strategy)| {
            let recorded = &strategy.recorded;
            let cells = vec![
                count(strategy.connects),
                tenths(self.view.whole.rate(strategy.connects)),
                percent(self.view.history.slow(recorded), strategy.connects),
                count(strategy.failed),
                or_dash(recorded.slowest_ns()),
            ];
            (name.to_owned(), cells)
        };
        table(&heads, self.view.whole.strategies().into_iter().map(row))
    }

    fn losses(&self) -> String {
        format!(
            "<p>In the last {}.</p>{}",
            last(self.view.whole.elapsed),
            list(&self.view.losses(&self.view.whole))
        )
    }

    fn cost(&self) -> String {
        let lines: Vec<_> = self
            .view
            .costs()
            .into_iter()
            .map(|(name, values)| Line {
                name: name.to_owned(),
                values,
            })
            .collect();
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
            list(&self.view.cost(&self.view.whole)),
            timeline(Place::Page, &chart, &self.ticks)
        )
    }

    fn trace(&self) -> String {
        markup(&self.view.trace())
    }
}

/// Returns the list of these facts.
fn list(facts: &[Fact]) -> String {
    let item = |fact: &Fact| {
        let class = if fact.is_bad { r#" class="bad""# } else { "" };
        let (term, value) = (markup(&fact.term), markup(&fact.value));
        format!("<div><dt>{term}</dt><dd{class}>{value}</dd></div>")
    };
    let items: String = facts.iter().map(item).collect();
    format!("<dl>{items}</dl>")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, SourcePort},
        fixtures::connect_from,
        live::{history::tests::on_full, stage::Stage},
        report::filling::tests::example as filling_example,
        stats::{Collection, Traced, by::By, filling::Filling},
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
    fn the_fullest_route_has_a_map_its_holders_and_its_end() {
        let mut made = Stage::new(Duration::from_secs(10));
        made.add(&[connect_from(20_000)]);
        assert!(page(&made).contains("runs without <code>--ports</code>"));
        made.side.filling = filling_example().filling;
        made.add(&[connect_from(20_000)]);
        let html = page(&made);
        for part in [
            "<figcaption>10.0.0.1 → 10.0.0.7:5432</figcaption><svg",
            "second pass in 20 s (19 to 22), EADDRNOTAVAIL not predicted: the rate varies.</p>",
            "<td>812</td><td>api</td><td>0</td><td>400</td><td>default</td><td>/system.slice/api.service</td>",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        made.side.filling = Some(Filling::default());
        made.add(&[connect_from(20_000)]);
        assert!(page(&made).contains("No route holds a tenth of its ports."));
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
        made.history.add(&crate::live::history::Ended {
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
}
