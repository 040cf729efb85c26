//! Colours, or their stand-ins on a terminal without.

use ratatui::style::{Color, Modifier, Style};

use crate::{connect::Outcome, live::verdict::Severity, sockets::PortUse, term::paint::Paint};

/// The styles of all parts. Without colours, no style depends on one.
#[derive(Clone, Copy)]
pub(super) struct Theme(pub Paint);

impl Theme {
    fn colour(self, colour: Color) -> Style {
        match self.0 {
            Paint(true) => Style::new().fg(colour),
            Paint(false) => Style::new(),
        }
    }

    /// Text that leads the eye.
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Text beside what matters.
    pub(super) fn quiet(self) -> Style {
        self.colour(Color::Gray)
    }

    /// The selected row, and other inverted parts.
    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The style of alarms.
    pub(super) fn alarm(self) -> Style {
        self.colour(Color::Red)
            .add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    /// A value that is not as it should be.
    pub(super) fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn border(self, is_chosen: bool) -> Style {
        match is_chosen {
            true => self.colour(Color::Cyan),
            false => self.colour(Color::DarkGray),
        }
    }

    pub(super) fn severity(self, severity: Severity) -> Style {
        match severity {
            Severity::Wrong => self.alarm(),
            Severity::Notable => self.colour(Color::Yellow).add_modifier(Modifier::BOLD),
            Severity::Fine => self.colour(Color::Green).add_modifier(Modifier::BOLD),
        }
    }

    pub(super) fn outcome(self, outcome: Outcome) -> Style {
        self.colour(match outcome {
            Outcome::Even => Color::Cyan,
            Outcome::Odd => Color::Magenta,
            Outcome::Bound => Color::Gray,
            Outcome::Failed => Color::Red,
        })
    }

    pub(super) fn port_use(self, made: PortUse) -> Style {
        match made {
            PortUse::Free => Style::new(),
            PortUse::Reserved => self.colour(Color::DarkGray),
            PortUse::Listener => self.colour(Color::Cyan),
            PortUse::Open => self.colour(Color::Red),
            PortUse::TimeWait => self.colour(Color::Yellow),
        }
    }
}
