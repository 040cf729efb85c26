//! A status line on a terminal's stderr, which is removed in the end.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use super::{message, terminal};

/// A line on stderr that is rewritten for each update, and removed when it is dropped.
pub(crate) struct Line(());

impl Line {
    /// Returns a line, or `None` if stderr is not a terminal that can erase a line.
    pub(crate) fn on_terminal() -> Option<Self> {
        let dumb = env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        (io::stderr().is_terminal() && !dumb).then_some(Self(()))
    }

    /// Replaces the text of the line.
    pub(crate) fn show(&self, line: &str) {
        let columns = terminal::columns_of(io::stderr()).unwrap_or(80);
        // A wrapped line could not be erased.
        let line: String = line.chars().take(columns.saturating_sub(1)).collect();
        message::status(&line);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        message::clear_status();
    }
}
