//! Draws the state: a pure function of the state, the history and the size of the terminal.

mod latency;
mod panes;
mod theme;

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span, Text},
    widgets::{Block, Clear, Paragraph, Wrap},
};

use self::theme::Theme;
use super::state::{Pane, State};
use crate::{
    clock::Time,
    live::{
        history::History,
        verdict::{Finding, INCOMPLETE, findings, last},
        view::View,
    },
    term::numbers::tenths,
};

/// Smallest terminal that is drawn on.
const LEAST: (u16, u16) = (40, 10);
/// Smallest terminal on which the latency stands above another pane.
const TWO_PANES: (u16, u16) = (70, 20);
/// Smallest terminal on which all panes are seen at once.
const ALL_PANES: (u16, u16) = (110, 36);
/// Rows of the latency above another pane.
const LATENCY_ROWS: u16 = 11;
/// Rows of the list of failures and losses, if all panes are seen.
const LOSSES_ROWS: u16 = 10;

/// The state and the figures from which the parts are drawn.
struct Scene<'a> {
    state: &'a State,
    view: View<'a>,
    theme: Theme,
}

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, history: &History) {
    let area = frame.area();
    let theme = Theme(state.paint);
    let (columns, rows) = LEAST;
    if area.width < columns || area.height < rows {
        let text = format!(
            "{} x {}: too small for connect-trace top, which takes {columns} x {rows}. q ends it.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let history = state.shown(history);
    let found = findings(history);
    let verdict_rows = match area.height {
        0..16 => 2,
        16..30 => 3,
        _ => 5,
    };
    let [head, verdict, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(verdict_rows),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(self::head(state, history, &found, theme), head);
    let verdict_text = Paragraph::new(sentences(&found, theme)).wrap(Wrap { trim: true });
    frame.render_widget(verdict_text, verdict);
    frame.render_widget(self::foot(state, theme), foot);
    if let Some(view) = View::of(history) {
        let scene = Scene { state, view, theme };
        for (pane, place) in places(state, body) {
            scene.pane(frame, pane, place);
        }
    }
    if state.shows_help {
        help(frame, area, theme);
    }
}

/// Returns the panes that are seen, and their places.
fn places(state: &State, body: Rect) -> Vec<(Pane, Rect)> {
    let fits = |(columns, rows): (u16, u16)| {
        // The rows above and below the body are part of the terminal.
        body.width >= columns && body.height + 5 >= rows
    };
    let latency_above = !matches!(state.pane, Pane::Latency);
    if state.is_zoomed || !fits(TWO_PANES) {
        return vec![(state.pane, body)];
    }
    if !fits(ALL_PANES) {
        let pane = if latency_above {
            state.pane
        } else {
            Pane::Routes
        };
        let [above, below] =
            Layout::vertical([Constraint::Length(LATENCY_ROWS), Constraint::Min(1)]).areas(body);
        return vec![(Pane::Latency, above), (pane, below)];
    }
    let [first, second, third] = Layout::vertical([
        Constraint::Length(LATENCY_ROWS),
        Constraint::Min(1),
        Constraint::Length(LOSSES_ROWS),
    ])
    .areas(body);
    let halves = |row: Rect, percent: u16| -> [Rect; 2] {
        Layout::horizontal([
            Constraint::Percentage(percent),
            Constraint::Percentage(100 - percent),
        ])
        .areas(row)
    };
    let [latency, strategies] = halves(first, 58);
    let [routes, ports] = halves(second, 58);
    let [losses, cost] = halves(third, 58);
    // Without room for all, messages have the place of the cost while they have the keys.
    let cost_or_messages = match state.pane {
        Pane::Messages => Pane::Messages,
        _ => Pane::Cost,
    };
    vec![
        (Pane::Latency, latency),
        (Pane::Strategies, strategies),
        (Pane::Routes, routes),
        (Pane::Ports, ports),
        (Pane::Losses, losses),
        (cost_or_messages, cost),
    ]
}

/// Returns the line at the top.
fn head<'a>(state: &'a State, history: &History, found: &[Finding], theme: Theme) -> Line<'a> {
    let mut line = Line::from(vec![
        Span::styled("connect-trace", theme.strong()),
        Span::raw(" "),
        Span::raw(state.host.as_str()),
    ]);
    if let Some(column) = history.columns().last() {
        line.push_span(format!(" {}", Time::from(column.at).of_day()));
    }
    // The finding may have no room below.
    if found.iter().any(|finding| finding.title == INCOMPLETE) {
        line.push_span(" ");
        line.push_span(Span::styled(format!(" {INCOMPLETE} "), theme.alarm()));
    }
    if state.paused.is_some() {
        line.push_span(" ");
        line.push_span(Span::styled(" PAUSED ", theme.chosen()));
    }
    let window = history.now().map(|(now, _)| now.elapsed);
    let window = match (state.shows_whole, history.whole(), window) {
        (true, Some(whole), _) => whole.elapsed,
        (false, _, Some(now)) => now,
        _ => Duration::ZERO,
    };
    line.push_span(format!(
        " last {}, every {} s",
        last(window),
        tenths(state.interval.as_secs_f64())
    ));
    if !state.messages.is_empty() {
        line.push_span(format!(" {} messages", state.messages.len()));
    }
    line
}

/// Returns the sentences about now, the worst first.
fn sentences(found: &[Finding], theme: Theme) -> Text<'_> {
    let sentence = |finding: &Finding| {
        let style = theme.severity(finding.severity);
        Line::from(vec![
            Span::styled(format!("{}.", finding.title), style),
            Span::raw(format!(" {}", finding.text)),
        ])
    };
    found.iter().map(sentence).collect()
}

/// Returns the line at the bottom: the keys, or the text that is being typed.
fn foot(state: &State, theme: Theme) -> Line<'_> {
    if state.edits_filter {
        return Line::from(vec![
            Span::styled("Routes with: ", theme.strong()),
            Span::raw(state.filter.as_str()),
            Span::styled(" ", theme.chosen()),
            Span::raw("  Enter keeps, Esc clears"),
        ]);
    }
    let keys = [
        ("F1", "Help"),
        ("Tab", "Pane"),
        ("F4", "Filter"),
        ("F5", "Span"),
        ("F6", "Sort"),
        ("p", "Pause"),
        ("Enter", "Zoom"),
        ("F10", "Quit"),
    ];
    let spans = keys.into_iter().flat_map(|(key, does)| {
        [
            Span::styled(key, theme.strong()),
            Span::styled(format!("{does} "), theme.chosen()),
        ]
    });
    Line::from_iter(spans)
}

/// Shows the keys over everything.
fn help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    const KEYS: [(&str, &str); 12] = [
        ("Tab Shift-Tab", "next, previous pane"),
        ("Up Down PgUp PgDn", "select a route, scroll"),
        ("Enter Esc", "one pane alone, and back"),
        ("s F6", "sort by the next column"),
        ("/ F4", "only routes with a text"),
        ("w F5", "last 10 s, or 15 min"),
        ("p space", "hold the figures"),
        ("+ -", "longer, shorter interval"),
        ("Ctrl-Z", "back to the shell; fg"),
        ("h ? F1 Esc", "these keys"),
        ("q F10 Ctrl-C", "end"),
        ("", "More: docs/top.md"),
    ];
    let lines = KEYS.map(|(key, does)| {
        Line::from(vec![
            Span::styled(format!("{key:>17}  "), theme.strong()),
            Span::raw(does),
        ])
    });
    let place = area.centered(
        Constraint::Length(48),
        Constraint::Length(KEYS.len() as u16 + 2),
    );
    let block = Block::bordered().title("Keys");
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(Text::from_iter(lines)).block(block), place);
}

impl Scene<'_> {
    fn pane(&self, frame: &mut Frame<'_>, pane: Pane, area: Rect) {
        let is_chosen = self.state.pane == pane;
        let mut title = format!(" {} ", pane.title());
        if let Some(sort) = self.state.sort(pane) {
            title.push_str(&format!("by {sort} "));
        }
        let style = match is_chosen {
            true => self.theme.strong(),
            false => self.theme.quiet(),
        };
        let block = Block::bordered()
            .title(Span::styled(title, style))
            .border_style(self.theme.border(is_chosen));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        match pane {
            Pane::Latency => self.latency(frame, inner),
            Pane::Routes => self.routes(frame, inner),
            Pane::Ports => self.ports(frame, inner),
            Pane::Strategies => self.strategies(frame, inner),
            Pane::Losses => self.losses(frame, inner),
            Pane::Cost => self.cost(frame, inner),
            Pane::Messages => self.messages(frame, inner),
        }
    }
}

#[cfg(test)]
mod tests;
