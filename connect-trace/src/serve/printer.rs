//! The reports of a service on stdout.

use std::io::{self, Write};

use crate::{
    options::Format,
    report::text,
    stats::report::Report,
    term::{stdout::stdout, terminal},
};

/// Prints the report of each interval, until stdout refuses one: the service goes on.
pub(super) struct Printer {
    format: Format,
    refused: bool,
}

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            refused: false,
        }
    }

    /// Prints a report, whose JSON is `line`.
    pub(super) fn print(&mut self, report: &Report, line: &[u8]) {
        if self.refused {
            return;
        }
        if let Err(error) = self.write(report, line) {
            log::error!("no more reports are printed: {error}");
            self.refused = true;
        }
    }

    fn write(&self, report: &Report, line: &[u8]) -> io::Result<()> {
        let mut out = stdout();
        match self.format {
            Format::Json => out.write_all(line)?,
            Format::Text => {
                text::write(&mut out, report, terminal::paint())?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()
    }
}
