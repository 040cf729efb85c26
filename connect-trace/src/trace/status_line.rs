//! The status line on a terminal's stderr, which shows that tracing goes on.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use super::config::Config;
use crate::term::status_line::Line;

/// The status line.
pub(crate) struct StatusLine(Line);

impl StatusLine {
    /// Creates the line; `None` if stderr is no terminal, if the line would mix with the output on stdout, or with
    /// `--quiet`.
    #[must_use]
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let streams = config.output.events || config.output.interval.is_some();
        let in_the_way = io::stdout().is_terminal() && streams || !config.command.is_empty();
        let wanted = !in_the_way && !config.quiet;
        wanted.then(Line::on_terminal).flatten().map(Self)
    }

    /// Shows the time since the start and the counts.
    pub(crate) fn update(&mut self, elapsed: Duration, connects: u64, lost: u64) {
        self.0.show(&text(elapsed, connects, lost));
    }
}

fn text(elapsed: Duration, connects: u64, lost: u64) -> String {
    format!("{} s, {connects} calls, {lost} lost", elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_time_connects_and_losses() {
        let line = text(Duration::from_millis(12_900), 3_456, 7);
        assert_eq!(line, "12 s, 3456 calls, 7 lost");
    }
}
