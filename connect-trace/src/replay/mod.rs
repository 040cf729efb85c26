//! `connect-trace report`: the reports of recordings, as a trace prints them.

pub mod args;
mod comparison;
mod json;

use std::{
    io::{self, Write as _},
    mem,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;

use self::comparison::{Comparison, Row};
use crate::{
    clock::{Clock, Time},
    connect::CheckMode,
    connect::Connect,
    filter::{Filters, filter_words, filters_of_recording},
    options::Format,
    recording::{End, Ending, Recording, Start, each_batch},
    replay::args::ReportArgs,
    report::{OutputArgs, output::Output},
    stats::{
        BelowMinimum,
        accounting::{Accounting, Unknown},
        report::{Checks, KernelSide},
    },
    term::{
        message::say,
        printable::printable,
        stdout::{stdout, unless_closed},
    },
};

/// Prints the reports of every file; of several, a comparison at the end. What is wrong with one is said
/// on stderr and makes the status 1; the others are reported even so.
///
/// # Errors
/// Where a filter cannot be understood, or stdout refuses.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    // A reader that went away changes nothing of what was found before.
    unless_closed(reports(args, &mut status))?;
    Ok(status)
}

/// Prints the reports. The status is a failure from the first recording on that something is wrong with.
fn reports(args: &ReportArgs, status: &mut ExitCode) -> Result<()> {
    let filters = filters_of_recording(&args.filters)?;
    let mut comparison =
        (args.files.len() > 1 && args.output.format == Format::Text).then(Comparison::default);
    for path in &args.files {
        let recording = match Recording::open(path) {
            Ok(recording) => recording,
            Err(error) => {
                say!("connect-trace: {error:#}");
                *status = ExitCode::FAILURE;
                continue;
            }
        };
        let left_out = &recording.start().filters;
        if !left_out.is_empty() {
            say!(
                "{}: recorded with {left_out}: it has no other connect() calls",
                printable(path)
            );
        }
        let mut row = comparison
            .is_some()
            .then(|| Row::new(path, recording.start()));
        match args.output.format {
            Format::Text => heading(row.is_some().then_some(path), recording.start())?,
            Format::Json => json::write_recording(&mut stdout(), path, recording.start())?,
        }
        if let Err(message) = replay(recording, &filters, &args.output, row.as_mut())? {
            say!("connect-trace: {}: {message}", printable(path));
            *status = ExitCode::FAILURE;
        }
        if let (Some(comparison), Some(row)) = (&mut comparison, row) {
            comparison.rows.push(row);
            writeln!(stdout())?;
        }
    }
    if let Some(comparison) = comparison {
        write!(stdout(), "{comparison}")?;
    }
    Ok(())
}

/// Says where and when a recording was made, and its name, if there are several.
fn heading(path: Option<&Path>, start: &Start) -> io::Result<()> {
    let mut out = stdout();
    if let Some(path) = path {
        writeln!(out, "=== {} ===", printable(path))?;
    }
    let began = Time::from(start.wall_clock(start.monotonic_ns));
    writeln!(out, "{}, {}", start.host, began.date_and_time())
}

/// Prints the reports of one recording. The inner error is what is wrong with its end.
fn replay(
    recording: Recording,
    filters: &Filters,
    args: &OutputArgs,
    mut row: Option<&mut Row>,
) -> Result<Result<(), String>> {
    let start = recording.start().clone();
    let offset_ns = i128::from(start.wall_ns) - i128::from(start.monotonic_ns);
    let output = Output::new(args, start.kernel.clone(), start.attached.clone())
        .of_the_past()
        .with_clock(Clock::fixed(i64::try_from(offset_ns).unwrap_or(0)))
        .with_filters(words(&start, filters));
    let mut intervals = Intervals::new(output, start, args.interval);
    let ending = each_batch(recording, |batch| {
        for connect in &batch {
            intervals.pass(connect)?;
            if !filters.wants(connect) {
                continue;
            }
            if filters.is_below_minimum(connect) {
                intervals.fast(connect);
                continue;
            }
            intervals.connect(connect)?;
            if let Some(row) = &mut row {
                row.connect(connect);
            }
        }
        Ok(())
    })?;
    match ending {
        Ending::Whole(mut end) => {
            leave_out_fast(&mut end, filters);
            end.kernel_side.fast = end.kernel_side.fast.and(&intervals.fast);
            if let Some(row) = row {
                row.end(&end.kernel_side);
            }
            intervals.end(*end)?;
            Ok(Ok(()))
        }
        Ending::Broken(broken) => {
            intervals.cut()?;
            Ok(Err(broken.to_string()))
        }
    }
}

/// Leaves out the connects below the trace's `--min-latency` if they are filtered: there is only a sum of
/// them, and so nothing that tells which ones a filter would have wanted. Another `--min-latency` wants them counted.
fn leave_out_fast(end: &mut End, filters: &Filters) {
    let fast = mem::take(&mut end.kernel_side.fast);
    let others = Filters {
        min_latency: None,
        ..filters.clone()
    };
    if filter_words(&others).is_empty() {
        end.kernel_side.fast = fast;
    } else if fast.count() > 0 {
        say!(
            "{} connect() calls below the trace's --min-latency were only counted: the filters leave them out",
            fast.count()
        );
    }
}

/// The reports of a recording: by intervals of the events' own time, or one.
struct Intervals {
    output: Output,
    start: Start,
    interval_ns: Option<u64>,
    /// When the report that is being collected began.
    since_ns: u64,
    /// Connects in it so far.
    connects: u64,
    /// The connects below this report's `--min-latency`, since the start, as the kernel would have counted them.
    fast: BelowMinimum,
    /// When the last connect so far ended.
    last_ns: u64,
}

impl Intervals {
    fn new(output: Output, start: Start, interval: Option<Duration>) -> Self {
        Self {
            output,
            interval_ns: interval.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            since_ns: start.monotonic_ns,
            connects: 0,
            fast: BelowMinimum::default(),
            last_ns: start.monotonic_ns,
            start,
        }
    }

    /// Prints the reports of the intervals that are over when this connect ends. Its end counts, as in a
    /// trace: it comes out of the kernel then.
    fn pass(&mut self, connect: &Connect) -> Result<()> {
        let now = connect.start_ns.saturating_add(connect.connect_ns);
        self.last_ns = self.last_ns.max(now);
        self.pass_until(now)
    }

    fn connect(&mut self, connect: &Connect) -> Result<()> {
        self.connects += 1;
        self.output.connect(connect)
    }

    fn fast(&mut self, connect: &Connect) {
        self.connects += 1;
        self.fast.record(connect);
    }

    fn pass_until(&mut self, now: u64) -> Result<()> {
        let Some(interval) = self.interval_ns else {
            return Ok(());
        };
        while now.saturating_sub(self.since_ns) >= interval {
            // One report of all intervals in a row in which nothing was: they may be years.
            let intervals = match self.connects {
                0 => (now - self.since_ns) / interval,
                _ => 1,
            };
            let until = self.since_ns + intervals * interval;
            self.report(until, self.unknown(Unknown::Interval))?;
        }
        Ok(())
    }

    /// Prints the last report.
    fn end(&mut self, end: End) -> Result<()> {
        let now = end.monotonic_ns.max(self.last_ns);
        // An interval that ends with the recording is the last report.
        self.pass_until(now.saturating_sub(1))?;
        self.report(now, end.kernel_side)
    }

    /// Prints the last report of a recording that has no end.
    fn cut(&mut self) -> Result<()> {
        self.report(self.last_ns, self.unknown(Unknown::Cut))
    }

    fn report(&mut self, until_ns: u64, kernel_side: KernelSide) -> Result<()> {
        let elapsed = Duration::from_nanos(until_ns.saturating_sub(self.since_ns));
        self.since_ns = until_ns;
        self.connects = 0;
        let at = self.start.wall_clock(until_ns);
        self.output.report(at, elapsed, kernel_side)
    }

    /// Returns what there is without that which the last report of a whole recording says, and no other.
    fn unknown(&self, why: Unknown) -> KernelSide {
        KernelSide {
            checks: Checks {
                mode: CheckMode::Off,
                ..Checks::default()
            },
            accounting: Accounting {
                unknown: Some(why),
                ..Accounting::default()
            },
            fast: self.fast,
            ..KernelSide::default()
        }
    }
}

/// The options that the recording was made with, and those of this report.
fn words(start: &Start, filters: &Filters) -> Vec<String> {
    let recorded = Some(start.filters.clone()).filter(|words| !words.is_empty());
    recorded.into_iter().chain(filter_words(filters)).collect()
}
