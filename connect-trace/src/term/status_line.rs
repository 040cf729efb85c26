//! A line on a terminal's stderr that says how far something is, and goes in the end.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use super::{message, terminal};

/// A line on stderr that is written anew each time, and goes in the end.
pub struct Line(());

impl Line {
    /// None where stderr is no terminal that can take a line back.
    pub fn on_terminal() -> Option<Self> {
        let dumb = env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        (io::stderr().is_terminal() && !dumb).then_some(Self(()))
    }

    /// Shows this instead of what it showed.
    pub fn show(&self, line: &str) {
        let columns = terminal::columns_of(io::stderr()).unwrap_or(80);
        // A line that wraps could not be taken back.
        let line: String = line.chars().take(columns.saturating_sub(1)).collect();
        message::status(&line);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        message::clear_status();
    }
}
