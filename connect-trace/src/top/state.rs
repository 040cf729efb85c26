//! The state of the screen, which keys change: what of the history is shown, and how.

use std::{cmp::Reverse, time::Duration};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{
    live::{
        history::{Column, History, Strategy},
        route::LiveRoute,
        view::{self, View},
    },
    stats::{exhaustion::SearchedRoute, forecast::Outlook},
    term::paint::Paint,
};

/// Rows of a page, for PgUp and PgDn.
const PAGE: isize = 10;
/// Limits of the interval that keys set.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(64));
/// Maximum length of the text of the filter, in characters.
const LONGEST_FILTER: usize = 60;

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Latency,
    Routes,
    Ports,
    Strategies,
    Losses,
    Cost,
    Messages,
}

impl Pane {
    /// All panes, in the order of Tab.
    pub(super) const ALL: [Self; 7] = [
        Self::Latency,
        Self::Routes,
        Self::Ports,
        Self::Strategies,
        Self::Losses,
        Self::Cost,
        Self::Messages,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Latency => "Latency by parity",
            Self::Routes => "Routes that fill up",
            Self::Ports => "Route",
            Self::Strategies => "Strategies",
            Self::Losses => "Failures and losses",
            Self::Cost => "Cost of the tracer",
            Self::Messages => "Messages",
        }
    }

    /// Returns the columns that its rows can be sorted by.
    pub(super) fn sorts(self) -> &'static [&'static str] {
        match self {
            Self::Routes => &["in use", "ends in", "failed", "route"],
            Self::Strategies => &["calls", "slow", "failed", "slowest"],
            _ => &[],
        }
    }
}

/// Returns the seconds until a route has no port left; infinity if they are not known.
fn ends_in(found: &LiveRoute<'_>) -> f64 {
    let forecast = found.filling.map(|filling| filling.forecast.exhausted);
    let seconds = forecast.and_then(Outlook::seconds);
    seconds.unwrap_or(f64::INFINITY)
}

/// The request of a key that is more than a change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Draw again.
    Draw,
    /// Begin intervals of the new length.
    Interval,
    /// Stop this process until it is continued.
    Suspend,
    /// End.
    End,
}

/// The state of the screen.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Name of the host.
    pub host: String,
    /// The interval that keys have set.
    pub interval: Duration,
    /// True if colours are used.
    pub paint: Paint,
    /// The pane that has the keys.
    pub pane: Pane,
    /// True if that pane has the screen alone.
    pub is_zoomed: bool,
    /// True while the keys are shown.
    pub shows_help: bool,
    /// True for the figures of the whole history instead of the latest ones.
    pub shows_whole: bool,
    /// The history as of a pause; `None` if there is none.
    pub paused: Option<Box<History>>,
    /// Only routes whose text contains this are shown.
    pub filter: String,
    /// True while keys change the filter.
    pub edits_filter: bool,
    /// Messages, the oldest first.
    pub messages: Vec<String>,
    /// Rows of the pane above the first that is shown.
    pub scrolled: usize,
    selected: Option<SearchedRoute>,
    route_sort: usize,
    strategy_sort: usize,
}

impl State {
    pub(super) fn new(host: String, interval: Duration, paint: Paint) -> Self {
        Self {
            host,
            interval,
            paint,
            pane: Pane::Routes,
            is_zoomed: false,
            shows_help: false,
            shows_whole: false,
            paused: None,
            filter: String::new(),
            edits_filter: false,
            messages: Vec::new(),
            scrolled: 0,
            selected: None,
            route_sort: 0,
            strategy_sort: 0,
        }
    }

    /// Returns the history that is shown, of the one that goes on.
    pub(super) fn shown<'a>(&'a self, history: &'a History) -> &'a History {
        self.paused.as_deref().unwrap_or(history)
    }

    /// Returns the figures that are shown.
    pub(super) fn figures(&self, view: &View<'_>) -> Column {
        match view.history.now() {
            Some((now, _)) if !self.shows_whole => now,
            _ => view.whole.clone(),
        }
    }

    /// Returns the column that rows of a pane are sorted by.
    pub(super) fn sort(&self, pane: Pane) -> Option<&'static str> {
        let number = match pane {
            Pane::Strategies => self.strategy_sort,
            _ => self.route_sort,
        };
        pane.sorts().get(number).copied()
    }

    /// Returns the routes that are shown, in order.
    pub(super) fn routes<'a>(&self, view: &'a View<'_>) -> Vec<LiveRoute<'a>> {
        let wanted = self.filter.to_lowercase();
        let mut routes = view.live_routes();
        routes.retain(|found| {
            let holders = found
                .filling
                .iter()
                .flat_map(|filling| &filling.ports.holders);
            let names = holders.map(|held| view.holder_name(&held.holder));
            let mut names = names.chain([view::route_name(&found.searched.route)]);
            names.any(|name| name.to_lowercase().contains(&wanted))
        });
        match self.sort(Pane::Routes) {
            Some("ends in") => routes.sort_by(|one, other| ends_in(one).total_cmp(&ends_in(other))),
            Some("failed") => routes.sort_by_key(|found| Reverse(found.failed())),
            Some("route") => routes.sort_by_key(|found| found.searched),
            // As they come.
            _ => {}
        }
        routes
    }

    /// Returns the strategies that are shown, in order.
    pub(super) fn strategies(&self, view: &View<'_>) -> Vec<(&'static str, Strategy)> {
        let mut all = self.figures(view).strategies();
        match self.sort(Pane::Strategies) {
            Some("slow") => all.sort_by_key(|(_, one)| Reverse(view.history.slow(&one.recorded))),
            Some("failed") => all.sort_by_key(|(_, one)| Reverse(one.failed)),
            Some("slowest") => all.sort_by_key(|(_, one)| Reverse(one.recorded.max_ns)),
            // As they come.
            _ => {}
        }
        all
    }

    /// Returns the place of the selected route among the shown ones: the first if none was selected, or if it is gone.
    pub(super) fn selected(&self, routes: &[LiveRoute<'_>]) -> usize {
        let is_selected = |found: &LiveRoute<'_>| Some(found.searched) == self.selected;
        routes.iter().position(is_selected).unwrap_or(0)
    }

    /// Answers a key.
    pub(super) fn key(&mut self, key: KeyEvent, history: &History) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Next::End,
                KeyCode::Char('z') => Next::Suspend,
                // The terminal is drawn anew in any case.
                _ => Next::Draw,
            };
        }
        if self.edits_filter {
            self.edit_filter(key.code);
            return Next::Draw;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::F(10) => return Next::End,
            KeyCode::Char('h' | '?') | KeyCode::F(1) => self.shows_help = !self.shows_help,
            KeyCode::Esc if self.shows_help => self.shows_help = false,
            KeyCode::Esc if self.is_zoomed => self.is_zoomed = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('/') | KeyCode::F(4) => self.edits_filter = true,
            KeyCode::Char('w') | KeyCode::F(5) => self.shows_whole = !self.shows_whole,
            KeyCode::Char('s') | KeyCode::F(6) => self.sort_by_next(),
            KeyCode::Char('p' | ' ') => {
                self.paused = match self.paused {
                    Some(_) => None,
                    None => Some(Box::new(history.clone())),
                };
            }
            KeyCode::Char('+') => return self.set_interval(self.interval * 2),
            KeyCode::Char('-') => return self.set_interval(self.interval / 2),
            KeyCode::Tab => self.next_pane(1),
            KeyCode::BackTab => self.next_pane(Pane::ALL.len() - 1),
            KeyCode::Enter if self.pane == Pane::Routes => {
                self.go_to(Pane::Ports);
                self.is_zoomed = true;
            }
            KeyCode::Enter => self.is_zoomed = !self.is_zoomed,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1, history),
            KeyCode::Down | KeyCode::Char('j') => self.step(1, history),
            KeyCode::PageUp => self.step(-PAGE, history),
            KeyCode::PageDown => self.step(PAGE, history),
            KeyCode::Home => self.step(isize::MIN, history),
            KeyCode::End => self.step(isize::MAX, history),
            _ => {}
        }
        Next::Draw
    }

    fn edit_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.edits_filter = false,
            KeyCode::Esc => {
                self.edits_filter = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.chars().count() < LONGEST_FILTER => {
                self.filter.push(character);
            }
            _ => {}
        }
    }

    fn set_interval(&mut self, interval: Duration) -> Next {
        let (least, most) = INTERVALS;
        // A longer one can be asked for with the option, and is left as it is.
        if interval < least || interval > most {
            return Next::Draw;
        }
        self.interval = interval;
        Next::Interval
    }

    fn next_pane(&mut self, steps: usize) {
        let place = Pane::ALL.iter().position(|pane| *pane == self.pane);
        let next = (place.unwrap_or(0) + steps) % Pane::ALL.len();
        self.go_to(Pane::ALL[next]);
    }

    fn go_to(&mut self, pane: Pane) {
        self.pane = pane;
        self.scrolled = 0;
    }

    fn sort_by_next(&mut self) {
        let columns = self.pane.sorts().len().max(1);
        match self.pane {
            Pane::Routes => self.route_sort = (self.route_sort + 1) % columns,
            Pane::Strategies => self.strategy_sort = (self.strategy_sort + 1) % columns,
            _ => {}
        }
    }

    /// Selects another route, or scrolls.
    fn step(&mut self, steps: isize, history: &History) {
        let Some(view) = View::of(self.shown(history)) else {
            return;
        };
        let moved = |place: usize, rows: usize| {
            let place = place.saturating_add_signed(steps);
            place.min(rows.saturating_sub(1))
        };
        if matches!(self.pane, Pane::Routes | Pane::Ports) {
            let routes = self.routes(&view);
            let place = moved(self.selected(&routes), routes.len());
            self.selected = routes.get(place).map(|found| found.searched);
            return;
        }
        let rows = match self.pane {
            Pane::Losses => view.losses(&self.figures(&view)).len(),
            Pane::Messages => self.messages.len(),
            _ => 0,
        };
        self.scrolled = moved(self.scrolled, rows);
    }
}
