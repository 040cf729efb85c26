//! The progress line of a run, on a terminal's stderr.

use std::time::{Duration, Instant};

use crate::term::status_line::Line;

/// Width of the bar.
const BAR: usize = 20;

/// The progress line, if stderr is a terminal.
pub(crate) struct Progress {
    line: Option<Line>,
    name: String,
    of: u32,
    begin: Instant,
}

impl Progress {
    /// Creates the line for a run of `of` attempts.
    #[must_use]
    pub(crate) fn new(name: String, of: u32) -> Self {
        Self {
            line: Line::on_terminal(),
            name,
            of,
            begin: Instant::now(),
        }
    }

    /// Shows the progress.
    pub(crate) fn update(&mut self, done: u32, errors: u32) {
        if let Some(line) = &mut self.line {
            line.show(&text(
                &self.name,
                done,
                self.of,
                errors,
                self.begin.elapsed(),
            ));
        }
    }
}

fn text(name: &str, done: u32, of: u32, errors: u32, elapsed: Duration) -> String {
    let share = f64::from(done) / f64::from(of.max(1));
    let full = (share * BAR as f64) as usize;
    format!(
        "{name} [{:<BAR$}] {done} of {of}, {:.0}/s, {errors} errors",
        "#".repeat(full.min(BAR)),
        f64::from(done) / elapsed.as_secs_f64().max(0.001),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_share_rate_and_errors() {
        let line = text("default", 50, 200, 3, Duration::from_secs(2));
        assert_eq!(
            line,
            "default [#####               ] 50 of 200, 25/s, 3 errors"
        );
        assert!(text("default", 0, 0, 0, Duration::ZERO).contains("0 of 0"));
    }
}
