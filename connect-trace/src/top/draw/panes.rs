//! Routes, strategies, lists of facts, and messages.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span, Text},
    widgets::{Paragraph, Row, Sparkline, Table, TableState, Wrap},
};

use super::Scene;
use crate::{
    clock::Time,
    live::{
        history::Strategy,
        route::LiveRoute,
        view::{self, Fact, or_dash, percent},
    },
    report::{filling::outlook_words, port_map::Drawing},
    sockets::{PortMap, UseCounts},
    stats::{
        filling::FillingRoute,
        forecast::Outlook,
        route_ports::{HeldCounts, RoutePorts},
    },
    term::{
        characters::Characters,
        numbers::{count, counted, plain, tenths, time},
        printable::printable,
    },
};

/// A column of the routes.
struct RouteColumn {
    head: &'static str,
    width: u16,
    /// Width of a table that has room for it.
    least: u16,
    cell: fn(&Scene<'_>, &LiveRoute<'_>) -> String,
}

const ROUTE_COLUMNS: [RouteColumn; 5] = [
    RouteColumn {
        head: "in use",
        width: 6,
        least: 0,
        cell: |_, found| format!("{} %", found.percent_taken()),
    },
    RouteColumn {
        head: "ends in",
        width: 8,
        least: 50,
        cell: |_, found| {
            let outlook = found.filling.map(|filling| filling.forecast.exhausted);
            match outlook {
                Some(Outlook::Reached) => "now".to_owned(),
                Some(Outlook::In(predicted)) => format!("{:.0} s", predicted.seconds),
                Some(Outlook::Unpredicted(_)) | None => "-".to_owned(),
            }
        },
    },
    RouteColumn {
        head: "failed",
        width: 8,
        least: 60,
        cell: |_, found| count(found.failed()),
    },
    RouteColumn {
        head: "range",
        width: 11,
        least: 76,
        cell: |_, found| {
            found
                .range()
                .map_or_else(|| "-".to_owned(), |range| range.to_string())
        },
    },
    RouteColumn {
        head: "last seen",
        width: 9,
        least: 96,
        cell: |scene, found| {
            let seen = scene.view.last_seen(&found.searched);
            seen.map_or_else(|| "-".to_owned(), |at| Time::from(at).of_day())
        },
    },
];

/// Width of a table that has room for all columns of the strategies.
const ALL_OF_STRATEGIES: u16 = 64;

impl Scene<'_> {
    pub(super) fn routes(&self, frame: &mut Frame<'_>, area: Rect) {
        let routes = self.state.routes(&self.view);
        if routes.is_empty() {
            let text = match self.state.filter.is_empty() {
                true => view::NO_ROUTE.to_owned(),
                false => format!("No route contains {:?}. Esc shows all.", self.state.filter),
            };
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
            return;
        }
        let columns: Vec<_> = ROUTE_COLUMNS
            .into_iter()
            .filter(|column| area.width >= column.least)
            .collect();
        let row = |found: &LiveRoute<'_>| {
            let cells = columns
                .iter()
                .map(|column| right((column.cell)(self, found)));
            let name = view::route_name(&found.searched.route);
            Row::new(cells.chain([Text::raw(name)]))
        };
        let heads = columns.iter().map(|column| right(column.head.to_owned()));
        let heads = heads.chain([Text::raw("route")]);
        let widths = columns
            .iter()
            .map(|column| Constraint::Length(column.width));
        let widths = widths.chain([Constraint::Fill(1)]);
        let table = Table::new(routes.iter().map(row), widths)
            .header(Row::new(heads).style(self.theme.strong()))
            .row_highlight_style(self.theme.chosen());
        let mut state = TableState::new().with_selected(self.state.selected(&routes));
        let [table_area, more_area] =
            Layout::vertical([Constraint::Min(1), Constraint::Length(self.more_rows())])
                .areas(area);
        frame.render_stateful_widget(table, table_area, &mut state);
        let more = format!("And at least {} more.", count(self.view.whole.more_routes));
        frame.render_widget(Paragraph::new(more), more_area);
    }

    fn more_rows(&self) -> u16 {
        u16::from(self.view.whole.more_routes > 0)
    }

    pub(super) fn ports(&self, frame: &mut Frame<'_>, area: Rect) {
        let routes = self.state.routes(&self.view);
        let Some(found) = routes.get(self.state.selected(&routes)) else {
            frame.render_widget(
                Paragraph::new(view::NO_ROUTE).wrap(Wrap { trim: true }),
                area,
            );
            return;
        };
        let name = view::route_name(&found.searched.route);
        let mut lines = vec![Line::styled(name, self.theme.strong())];
        if let Some(filling) = found.filling {
            lines.extend(self.about(filling));
            let below = above(frame, Text::from(lines), area);
            self.holders_and_map(frame, below, &filling.ports);
            return;
        }
        if let Some(evidence) = found.evidence {
            lines.push(Line::raw(format!(
                "At least {} % of {} in use",
                evidence.percent_taken, evidence.range
            )));
            lines.push(Line::raw(format!(
                "Seen by {}, {} failed",
                counted(evidence.connects, "call", "calls"),
                count(evidence.failed)
            )));
        }
        if let Some(netns) = found.searched.route.netns {
            lines.push(Line::raw(format!("Network namespace {netns}")));
        }
        lines.push(Line::styled(
            "Who holds them: not with --no-ports, --min-latency or --failed",
            self.theme.quiet(),
        ));
        let course = above(frame, Text::from(lines), area);
        let values = self.view.course(|column| {
            let taken = column.percent_taken(&found.searched);
            taken.map(u64::from)
        });
        self.course_of(frame, course, "ports in use, 0 to 100 %", values, 100);
    }

    /// Returns how many ports of a route are in use, and when they end.
    fn about(&self, filling: &FillingRoute) -> Vec<Line<'static>> {
        let map = &filling.ports.map;
        let all = map.all_counts();
        let share = |counts: UseCounts| percent(counts.taken().into(), counts.total().into());
        let forecast = &filling.forecast;
        let mut lines = vec![
            Line::raw(format!(
                "{} of {} in use; even {}, odd {}",
                count(all.taken().into()),
                count(all.total().into()),
                share(map.counts(0)),
                share(map.counts(1)),
            )),
            Line::raw(format!(
                "EADDRNOTAVAIL {}",
                outlook_words(forecast.exhausted)
            )),
            Line::raw(format!(
                "{} opens/s, {} closes/s",
                tenths(forecast.opens_per_s),
                tenths(forecast.closes_per_s)
            )),
        ];
        if let Some(second_pass) = forecast.second_pass {
            lines.insert(
                2,
                Line::raw(format!("Second pass {}", outlook_words(second_pass))),
            );
        }
        if let Some(why) = &filling.records_alone {
            let why = format!("Only connections since the start: {}", printable(why));
            lines.push(Line::styled(why, self.theme.bad()));
        }
        let dropped = self
            .view
            .latest
            .filling
            .as_ref()
            .map_or(0, |filling| filling.dropped);
        if dropped > 0 {
            let dropped = format!("{} ports were dropped for lack of room", count(dropped));
            lines.push(Line::styled(dropped, self.theme.bad()));
        }
        lines
    }

    /// Draws the holders of the ports of a route, those with the most first, and below them the map of its range.
    fn holders_and_map(&self, frame: &mut Frame<'_>, area: Rect, ports: &RoutePorts) {
        // A lane of each parity has up to a quarter of the place.
        let rows_each = (area.height / 4).clamp(1, 4);
        let [holders, map] =
            Layout::vertical([Constraint::Fill(1), Constraint::Max(2 * rows_each)]).areas(area);
        let row = |name: String, held: HeldCounts| {
            Row::new([
                Text::raw(name),
                right(count(held.open.into())),
                right(count(held.time_wait.into())),
            ])
        };
        let unknown =
            (ports.unknown.total() > 0).then_some(("not known".to_owned(), ports.unknown));
        let known = ports
            .holders
            .iter()
            .map(|held| (self.view.holder_name(&held.holder), held.ports));
        let rows = known.chain(unknown).map(|(name, held)| row(name, held));
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(7),
            Constraint::Length(9),
        ];
        let heads = Row::new([
            Text::raw("holder"),
            right("open".to_owned()),
            right("TIME_WAIT".to_owned()),
        ]);
        let table = Table::new(rows, widths).header(heads.style(self.theme.strong()));
        frame.render_widget(table, holders);
        frame.render_widget(self.map(&ports.map, map.width, rows_each), map);
    }

    /// Returns the map of a range: lines of even ports, then lines of odd ports.
    fn map(&self, map: &PortMap, width: u16, rows_each: u16) -> Text<'static> {
        const NAME: usize = "even ".len();
        let width = usize::from(width).saturating_sub(NAME).max(1);
        let lanes = [(0, "even "), (1, "odd  ")].map(|(parity, name)| {
            let cells = map.cells(parity, width * usize::from(rows_each));
            (name, cells)
        });
        let all = lanes.iter().flat_map(|(_, cells)| cells);
        let drawing = Drawing {
            paint: self.theme.0,
            characters: Characters::of_locale(),
            ports_each: all.map(|cell| cell.counts.total()).max().unwrap_or(1),
        };
        let lines = lanes.iter().flat_map(|(name, cells)| {
            cells.chunks(width).map(|cells| {
                let drawn = cells.iter().map(|cell| {
                    let style = self.theme.port_use(cell.counts.main());
                    Span::styled(drawing.character(cell).to_string(), style)
                });
                [Span::raw(*name)]
                    .into_iter()
                    .chain(drawn)
                    .collect::<Line<'_>>()
            })
        });
        lines.collect()
    }

    /// Draws values over time, the latest at the right end, below a title.
    fn course_of(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        values: Vec<Option<u64>>,
        most: u64,
    ) {
        let [head, chart] =
            Layout::vertical([Constraint::Length(1), Constraint::Max(6)]).areas(area);
        frame.render_widget(Line::styled(title, self.theme.quiet()), head);
        let width = usize::from(chart.width);
        let mut shown = vec![None; width.saturating_sub(values.len())];
        shown.extend_from_slice(&values[values.len().saturating_sub(width)..]);
        let sparkline = Sparkline::default()
            .data(shown)
            .max(most)
            .absent_value_symbol(" ");
        frame.render_widget(sparkline, chart);
    }

    pub(super) fn strategies(&self, frame: &mut Frame<'_>, area: Rect) {
        let all = self.state.strategies(&self.view);
        if all.is_empty() {
            frame.render_widget(Paragraph::new(view::NO_CALL), area);
            return;
        }
        let figures = self.state.figures(&self.view);
        // Without room for all, the last ones are left out.
        let columns = if area.width < ALL_OF_STRATEGIES { 3 } else { 5 };
        let slow = format!("from {}", time(self.view.history.slow_ns() as f64));
        let heads =
            ["calls", "failed", &slow, "calls/s", "slowest"].map(|head| right(head.to_owned()));
        let row = |(name, strategy): &(&'static str, Strategy)| {
            let recorded = &strategy.recorded;
            let cells = [
                count(strategy.connects),
                count(strategy.failed),
                percent(self.view.history.slow(recorded), strategy.connects),
                tenths(figures.rate(strategy.connects)),
                or_dash(recorded.slowest_ns()),
            ];
            let cells = cells.map(right).into_iter().take(columns);
            Row::new([Text::raw(*name)].into_iter().chain(cells))
        };
        let heads = heads.into_iter().take(columns);
        let heads = Row::new([Text::raw("strategy")].into_iter().chain(heads));
        let widths = [9, 7, 11, 8, 8]
            .map(Constraint::Length)
            .into_iter()
            .take(columns);
        let widths = [Constraint::Fill(1)].into_iter().chain(widths);
        let table =
            Table::new(all.iter().map(row), widths).header(heads.style(self.theme.strong()));
        frame.render_widget(table, area);
    }

    pub(super) fn losses(&self, frame: &mut Frame<'_>, area: Rect) {
        let facts = self.view.losses(&self.state.figures(&self.view));
        frame.render_widget(
            Paragraph::new(self.facts(&facts)).scroll((self.scrolled(), 0)),
            area,
        );
    }

    pub(super) fn cost(&self, frame: &mut Frame<'_>, area: Rect) {
        /// Parts of a percent that the chart tells apart.
        const FINE: f64 = 1_000.0;
        let mut text = self.facts(&self.view.cost(&self.state.figures(&self.view)));
        text.push_line(Line::styled(self.view.trace(), self.theme.quiet()));
        let course = above(frame, text, area);
        let costs = self.view.costs();
        let sums: Vec<_> = (0..self.view.columns.len())
            .map(|place| {
                let parts = costs.iter().filter_map(|(_, values)| values[place]);
                Some((parts.sum::<f64>() * FINE) as u64)
            })
            .collect();
        let most = sums.iter().flatten().copied().max().unwrap_or(0).max(1);
        let title = format!("all, 0 to {} % of a core", plain(most as f64 / FINE));
        self.course_of(frame, course, &title, sums, most);
    }

    pub(super) fn messages(&self, frame: &mut Frame<'_>, area: Rect) {
        let text = match self.state.messages.is_empty() {
            true => Text::raw("No message."),
            false => self
                .state
                .messages
                .iter()
                .rev()
                .map(String::as_str)
                .collect(),
        };
        let text = Paragraph::new(text).wrap(Wrap { trim: true });
        frame.render_widget(text.scroll((self.scrolled(), 0)), area);
    }

    fn scrolled(&self) -> u16 {
        u16::try_from(self.state.scrolled).unwrap_or(u16::MAX)
    }

    /// Returns a line for each fact.
    fn facts(&self, facts: &[Fact]) -> Text<'static> {
        let line = |fact: &Fact| {
            let style = match fact.is_bad {
                true => self.theme.bad(),
                false => self.theme.strong(),
            };
            Line::from(vec![
                Span::raw(format!("{}: ", fact.term)),
                Span::styled(fact.value.clone(), style),
            ])
        };
        facts.iter().map(line).collect()
    }
}

/// Draws lines, and returns the place below them.
fn above(frame: &mut Frame<'_>, text: Text<'_>, area: Rect) -> Rect {
    let rows = u16::try_from(text.lines.len()).unwrap_or(u16::MAX);
    let [words, below] = Layout::vertical([Constraint::Max(rows), Constraint::Fill(1)]).areas(area);
    frame.render_widget(text, words);
    below
}

fn right(text: String) -> Text<'static> {
    Text::from(text).right_aligned()
}
