//! What becomes of the connects, of a trace and of a recording alike: they are aggregated, printed as
//! events, and reported.

use std::{
    io::{self, BufWriter, Write},
    time::{Duration, SystemTime},
};

use anyhow::Result;

use crate::{
    aggregate::{FastConnects, Groups, Precision, Summary, by::By},
    cli::{Format, OutputArgs},
    clock::{Clock, Time},
    event::Connect,
    report::{KernelSide, Report, event_line::EventLines, json, paint::Paint, terminal, text},
};

/// Lines that are kept until the next [`Output::flush`]: a batch of events is one call of the kernel.
const BUFFER_BYTES: usize = 64 << 10;

/// Everything that is printed on stdout.
pub struct Output {
    args: OutputArgs,
    kernel: String,
    attached: String,
    filters: Vec<String>,
    clock: Clock,
    /// By how much the clock was set since the last report.
    clock_step_ns: Option<i128>,
    summary: Summary,
    /// By `--by`; those by parity are in `summary`.
    groups: Option<Groups>,
    /// The fast connects up to the last report.
    fast: FastConnects,
    /// The columns of the lines of events, from their header on.
    lines: Option<EventLines>,
    paint: Paint,
    out: Box<dyn Write>,
}

impl Output {
    /// Of connects that were traced on this kernel, attached in this way.
    #[must_use]
    pub fn new(args: &OutputArgs, kernel: String, attached: String) -> Self {
        let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()));
        Self::to(out, terminal::paint(), args, kernel, attached)
    }

    fn to(
        out: Box<dyn Write>,
        paint: Paint,
        args: &OutputArgs,
        kernel: String,
        attached: String,
    ) -> Self {
        Self {
            args: args.clone(),
            kernel,
            attached,
            filters: Vec::new(),
            clock: Clock::now(),
            clock_step_ns: None,
            summary: Summary::default(),
            groups: groups(args.by),
            fast: FastConnects::default(),
            lines: None,
            paint,
            out,
        }
    }

    /// Says in each report which connects are wanted: see [`crate::report::filter_words`].
    #[must_use]
    pub fn with_filters(self, filters: Vec<String>) -> Self {
        Self { filters, ..self }
    }

    /// Takes the times of day of events from this clock, where the connects are not of now.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Takes a connect. An event may be printed only at the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// Where stdout refuses; the connect is in the report even so.
    pub fn connect(&mut self, connect: &Connect) -> Result<()> {
        self.summary.record(connect);
        if let Some(groups) = &mut self.groups {
            groups.record(connect);
        }
        if !self.args.events {
            return Ok(());
        }
        match self.args.format {
            Format::Json => json::write_event(&mut self.out, connect, &self.clock)?,
            Format::Text => {
                let lines = match self.lines {
                    Some(lines) => lines,
                    None => {
                        let lines = EventLines::new(terminal::columns());
                        writeln!(self.out, "{}", self.paint.title(&lines.header()))?;
                        *self.lines.insert(lines)
                    }
                };
                writeln!(self.out, "{}", lines.event(connect, &self.clock))?;
            }
        }
        Ok(())
    }

    /// Prints the events that have come, and looks at the clock. To be called now and then, as after
    /// each look at the ring buffer.
    ///
    /// # Errors
    /// Where stdout refuses.
    pub fn flush(&mut self) -> Result<()> {
        if let Some(step) = self.clock.follow() {
            *self.clock_step_ns.get_or_insert(0) += step;
        }
        self.out.flush()?;
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
        kernel_side: KernelSide,
    ) -> Result<()> {
        // The events come before the report that they are in, whatever becomes of it.
        let flushed = self.flush();
        let report = self.collect(at, elapsed, kernel_side);
        flushed?;
        match self.args.format {
            Format::Json => json::write_report(&mut self.out, &report)?,
            Format::Text => self.write_text(&report)?,
        }
        self.out.flush()?;
        Ok(())
    }

    fn write_text(&mut self, report: &Report) -> Result<()> {
        // After a report, events have a header again.
        if self.lines.take().is_some() {
            writeln!(self.out)?;
        }
        if self.args.timestamp {
            writeln!(self.out, "{}", Time::from(report.at).of_day())?;
        }
        text::write(&mut self.out, report, self.paint)?;
        if self.args.interval.is_some() {
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// Takes what has come since the last report.
    fn collect(&mut self, at: SystemTime, elapsed: Duration, kernel_side: KernelSide) -> Report {
        let fast = kernel_side.fast.since(&self.fast);
        self.fast = kernel_side.fast;
        let mut summary = std::mem::take(&mut self.summary);
        summary.merge_fast(&fast);
        let next = groups(self.args.by);
        let (precision, top) = match std::mem::replace(&mut self.groups, next) {
            None => (Precision::Fine, summary.by_parity()),
            Some(mut groups) => {
                groups.merge_fast(&fast);
                (groups.precision(), groups.top(self.args.top))
            }
        };
        Report {
            kernel: self.kernel.clone(),
            attached: self.attached.clone(),
            filters: self.filters.clone(),
            at,
            elapsed,
            summary,
            by: self.args.by,
            precision,
            top,
            checks: kernel_side.checks,
            accounting: kernel_side.accounting,
            clock_step_ns: self.clock_step_ns.take(),
        }
    }
}

/// None by parity, which the summary has.
fn groups(by: By) -> Option<Groups> {
    (by != By::Parity).then(|| Groups::new(by))
}
