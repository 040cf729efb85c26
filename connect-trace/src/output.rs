//! What becomes of the connects, of a trace and of a recording alike: they are aggregated, printed as
//! events, and reported.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use anyhow::Result;

use crate::{
    accounting::Accounting,
    aggregate::Summary,
    cli::OutputArgs,
    clock,
    event::Connect,
    report::{Checks, Report, text},
};

/// Everything that is printed on stdout.
pub struct Output {
    args: OutputArgs,
    kernel: String,
    attached: String,
    summary: Summary,
}

impl Output {
    /// Of connects that were traced on this kernel, attached in this way.
    #[must_use]
    pub fn new(args: &OutputArgs, kernel: String, attached: String) -> Self {
        Self {
            args: args.clone(),
            kernel,
            attached,
            summary: Summary::default(),
        }
    }

    /// Takes a connect.
    ///
    /// # Errors
    /// Where stdout refuses; the connect is in the report even so.
    pub fn connect(&mut self, connect: &Connect) -> Result<()> {
        self.summary.record(connect);
        Ok(())
    }

    /// Prints what has come since the last report, and starts anew. Every report says what is known of
    /// the port checks and of the account so far.
    ///
    /// # Errors
    /// Where stdout refuses.
    pub fn report(
        &mut self,
        at: SystemTime,
        elapsed: Duration,
        checks: Checks,
        accounting: Accounting,
    ) -> Result<()> {
        let report = Report {
            kernel: self.kernel.clone(),
            attached: self.attached.clone(),
            at,
            elapsed,
            summary: std::mem::take(&mut self.summary),
            checks,
            accounting,
        };
        let mut out = io::stdout().lock();
        if self.args.timestamp {
            writeln!(out, "{}", clock::time_of_day(report.at))?;
        }
        text::write(&mut out, &report)?;
        if self.args.interval.is_some() {
            writeln!(out)?;
        }
        out.flush()?;
        Ok(())
    }
}
