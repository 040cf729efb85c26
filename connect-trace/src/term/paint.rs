//! Colours for text that must not be overlooked.

use anstyle::{AnsiColor, Style};

/// True if colours are used: only on a terminal, and not with `NO_COLOR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paint(pub bool);

impl Paint {
    /// Returns a title in bold.
    #[must_use]
    pub(crate) fn title(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    /// Returns a warning in yellow.
    #[must_use]
    pub(crate) fn warning(self, text: &str) -> String {
        self.with(AnsiColor::Yellow.on_default().bold(), text)
    }

    /// Returns a text in a colour.
    #[must_use]
    pub(crate) fn colour(self, colour: AnsiColor, text: &str) -> String {
        self.with(colour.on_default(), text)
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.0 {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}
