//! Output of a trace and of a recording: connections are counted, printed as events, and reported.

use std::{
    io::{BufWriter, Write},
    time::{Duration, SystemTime},
};

use anyhow::Result;

use crate::{
    clock::{Clock, Time},
    connect::{Connect, ConnectionEvent},
    options::Format,
    report::{OutputArgs, event_line::EventLines, json, one_line::ReportLines, rules, text},
    rules::{Condition, Findings, Rules},
    stats::{
        Collection, Traced,
        exhaustion::Exhaustion,
        report::{KernelSide, Report},
    },
    term::{message::Stderr, paint::Paint, stdout::stdout, terminal},
};

/// Size of the buffer of lines, which [`Output::flush`] writes: a batch of events is one system call.
const BUFFER_BYTES: usize = 64 << 10;

/// Everything that is printed on stdout.
pub struct Output {
    args: OutputArgs,
    clock: Clock,
    /// Change of the clock since the last report.
    clock_step_ns: Option<i128>,
    collection: Collection,
    /// The rules that are evaluated on all connections, if there are any.
    rules: Option<Rules>,
    /// True to log an exhaustion when it is first seen.
    is_live: bool,
    /// Lines of events; `None` before the first event.
    lines: Option<EventLines>,
    /// Lines of reports, with `--oneline`.
    report_lines: Option<ReportLines>,
    paint: Paint,
    out: Box<dyn Write>,
}

impl Output {
    /// Creates the output for the connections of a trace.
    #[must_use]
    pub fn new(args: &OutputArgs, traced: Traced) -> Self {
        let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, stdout()));
        Self::to(out, terminal::paint(), args, traced)
    }

    /// Creates the output of [`new`](Self::new) to somewhere else.
    pub(crate) fn to(out: Box<dyn Write>, paint: Paint, args: &OutputArgs, traced: Traced) -> Self {
        Self {
            args: args.clone(),
            clock: Clock::now(),
            clock_step_ns: None,
            collection: Collection::new(traced, args.by, args.top),
            rules: None,
            is_live: true,
            lines: None,
            report_lines: args.oneline.then(|| {
                let has_ms = |interval: Duration| interval.subsec_nanos() != 0;
                ReportLines::new(args.interval.is_some_and(has_ms))
            }),
            paint,
            out,
        }
    }

    /// Prints on stderr instead, if stdout is in use.
    #[must_use]
    pub fn on_stderr(self) -> Self {
        Self {
            paint: Paint(false),
            out: Box::new(BufWriter::with_capacity(BUFFER_BYTES, Stderr)),
            ..self
        }
    }

    /// Shows exhaustions in reports only, because the connections are not live.
    #[must_use]
    pub fn of_the_past(self) -> Self {
        Self {
            is_live: false,
            ..self
        }
    }

    /// Takes the times of day of events from this clock, because the connections are not live.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Evaluates these rules on all connections.
    #[must_use]
    pub fn with_rules(self, rules: &[Condition]) -> Self {
        Self {
            rules: Rules::new(rules),
            ..self
        }
    }

    /// Adds a connection. Its event may be printed only at the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// If stdout cannot be written; the connection is still part of the report.
    pub fn connect(&mut self, connect: &Connect) -> Result<()> {
        if let Some(found) = self.collection.connect(connect) {
            self.warn(&found);
        }
        if let Some(rules) = &mut self.rules {
            rules.record(connect);
        }
        if self.args.events {
            return self.write_event(connect);
        }
        Ok(())
    }

    /// Adds an event of a connection that is followed; see [`connect`](Self::connect).
    ///
    /// # Errors
    /// If stdout cannot be written; the event is still part of the report.
    pub fn ended(&mut self, event: &ConnectionEvent) -> Result<()> {
        self.collection.ended(event);
        if !self.args.events {
            return Ok(());
        }
        match self.args.format {
            Format::Json => json::write_connection(&mut self.out, event, &self.clock)?,
            Format::Text => self.write_line(|lines, clock| lines.ended(event, clock))?,
        }
        Ok(())
    }

    /// Logs that ports run out, where it is now that they do.
    #[cold]
    fn warn(&self, found: &Exhaustion) {
        if self.is_live {
            log::warn!("{found}");
        }
    }

    /// Writes the line of an event.
    #[inline(never)]
    fn write_event(&mut self, connect: &Connect) -> Result<()> {
        match self.args.format {
            Format::Json => json::write_event(&mut self.out, connect, &self.clock)?,
            Format::Text => self.write_line(|lines, clock| lines.event(connect, clock))?,
        }
        Ok(())
    }

    /// Writes a line of text, after a header if one is due.
    fn write_line(&mut self, line: impl FnOnce(&mut EventLines, &Clock) -> String) -> Result<()> {
        let lines = self
            .lines
            .get_or_insert_with(|| EventLines::new(terminal::columns()));
        let line = line(lines, &self.clock);
        if let Some(header) = lines.header() {
            writeln!(self.out, "{}", self.paint.title(&header))?;
        }
        writeln!(self.out, "{line}")?;
        Ok(())
    }

    /// Prints the events so far, and checks if the clock was set. Must be called regularly, for example after
    /// each look at the ring buffer.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        if let Some(step) = self.clock.follow() {
            *self.clock_step_ns.get_or_insert(0) += step;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints a report since the last one, and starts a new one. The candidate checks and the account in each
    /// report cover the whole trace so far.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub fn report(
        &mut self,
        at: SystemTime,
        elapsed: Duration,
        kernel_side: KernelSide,
    ) -> Result<()> {
        // The events are printed before the report that contains them, even if the report fails.
        let flushed = self.flush();
        let step_ns = self.clock_step_ns.take();
        let report = self.collection.take(at, elapsed, step_ns, kernel_side);
        flushed?;
        match self.args.format {
            Format::Json => json::write_report(&mut self.out, &report)?,
            Format::Text => self.write_text(&report)?,
        }
        self.out.flush()?;
        Ok(())
    }

    /// Ends the evaluation of the rules, if there are any. `kernel_side` is that of the whole trace, and `unfiltered` the
    /// number of calls to which the filters cannot be applied.
    pub fn judge(&mut self, kernel_side: &KernelSide, unfiltered: u64) -> Option<Findings> {
        let filters = self.collection.traced.filters.clone();
        let rules = self.rules.take()?;
        Some(rules.finish(filters, kernel_side, unfiltered))
    }

    /// Prints the results of the rules.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub fn findings(&mut self, findings: &Findings) -> Result<()> {
        match self.args.format {
            Format::Json => json::write_rules(&mut self.out, findings)?,
            Format::Text => {
                let text = rules::text(findings, self.paint);
                self.out.write_all(text.as_bytes())?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    fn write_text(&mut self, report: &Report) -> Result<()> {
        if let Some(lines) = &mut self.report_lines {
            let text = lines.next(report, terminal::rows(), self.paint);
            self.out.write_all(text.as_bytes())?;
            for warning in lines.new_warnings(report) {
                // An exhaustion was logged when it was seen.
                if warning.kind != "exhaustion" || !self.is_live {
                    log::warn!("{}", warning.text);
                }
            }
            return Ok(());
        }
        // Events after a report begin with a header again.
        if let Some(lines) = self.lines.take() {
            if lines.is_headed() {
                writeln!(self.out)?;
            }
            self.lines = Some(lines.again(terminal::columns()));
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
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, io, rc::Rc};

    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::fixtures::connect_from;

    /// The printed bytes, and true if there is still a reader.
    #[derive(Clone, Default)]
    struct Printed(Rc<RefCell<Vec<u8>>>, Rc<RefCell<bool>>);

    impl Printed {
        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if *self.1.borrow() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(arguments: &str) -> (Output, Printed) {
        let arguments = ["connect-trace"]
            .into_iter()
            .chain(arguments.split_whitespace());
        let command = OutputArgs::augment_args(clap::Command::new("connect-trace"));
        let args = OutputArgs::from_arg_matches(&command.get_matches_from(arguments)).unwrap();
        let printed = Printed::default();
        let out = Box::new(printed.clone());
        let traced = Traced {
            kernel: "6.12.0".to_owned(),
            attached: "fentry/fexit".to_owned(),
            filters: Vec::new(),
        };
        let output = Output::to(out, Paint(false), &args, traced);
        (output.with_clock(Clock::fixed(0)), printed)
    }

    fn report(output: &mut Output, kernel_side: KernelSide) -> Result<()> {
        output.report(SystemTime::UNIX_EPOCH, Duration::from_secs(1), kernel_side)
    }

    #[test]
    fn events_have_a_header_before_the_first_and_after_each_report() {
        let (mut output, printed) = output("--events -i 1");
        for port in [20_000, 20_001] {
            output.connect(&connect_from(port)).unwrap();
        }
        report(&mut output, KernelSide::default()).unwrap();
        report(&mut output, KernelSide::default()).unwrap();
        output.connect(&connect_from(20_002)).unwrap();
        let text = printed.text();
        let kinds: Vec<&str> = text
            .lines()
            .filter_map(|line| {
                ["TIME ", "2 connect", "0 connect", ""]
                    .into_iter()
                    .find(|start| line.starts_with(start))
                    .filter(|start| !start.is_empty() || line.contains("127.0.0.1"))
            })
            .collect();
        let expected = ["TIME ", "", "", "2 connect", "0 connect", "TIME ", ""];
        assert_eq!(kinds, expected, "{text}");
    }

    #[test]
    fn one_line_is_all_there_is_of_a_report() {
        let (mut output, printed) = output("--oneline -i 500ms");
        for _ in 0..2 {
            output.connect(&connect_from(20_001)).unwrap();
            report(&mut output, KernelSide::default()).unwrap();
        }
        let text = printed.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + 2, "{text}");
        assert!(lines[1].starts_with("TIME         connects/s "), "{text}");
        let tail = "     1       0        -        -     20.0     20.0  100%      0";
        for line in &lines[2..] {
            assert!(line.contains(":00.000 ") && line.ends_with(tail), "{text}");
        }
    }

    #[test]
    fn a_report_without_events_begins_with_itself() {
        let (mut output, printed) = output("");
        output.connect(&connect_from(20_000)).unwrap();
        assert_eq!(printed.text(), "");
        report(&mut output, KernelSide::default()).unwrap();
        assert!(printed.text().starts_with("1 connect() call in 1.00 s\n"));
    }

    #[test]
    fn each_report_has_the_fast_connects_that_came_since_the_last() {
        let (mut output, printed) = output("--format json --by pid");
        for count in [3, 10, 10] {
            let kernel_side = KernelSide {
                fast: crate::fixtures::below_minimum(count),
                ..KernelSide::default()
            };
            report(&mut output, kernel_side).unwrap();
        }
        let fast: Vec<Option<u64>> = printed
            .text()
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["connects"], line["connects_fast"]);
                assert_eq!(line["fast"].is_null(), line["connects_fast"] == 0);
                line["connects_fast"].as_u64()
            })
            .collect();
        assert_eq!(fast, [Some(6), Some(14), Some(0)]);
    }

    #[test]
    fn a_reader_that_went_away_loses_nothing_that_is_counted() {
        let (mut output, printed) = output("--events");
        output.connect(&connect_from(20_000)).unwrap();
        *printed.1.borrow_mut() = true;
        assert!(output.connect(&connect_from(20_001)).is_err());
        assert!(report(&mut output, KernelSide::default()).is_err());
        *printed.1.borrow_mut() = false;
        report(&mut output, KernelSide::default()).unwrap();
        let text = printed.text();
        assert!(
            text.contains("\n0 connect() calls in "),
            "they were in that report: {text}"
        );
    }
}
