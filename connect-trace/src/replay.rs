//! `connect-trace report`: the reports of recordings, as a trace prints them.

mod comparison;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};

use self::comparison::{Comparison, Row};
use crate::{
    accounting::{Accounting, Unknown},
    cli::{Format, OutputArgs, ReportArgs},
    clock::{Clock, Time},
    config::filters_of_recording,
    event::Connect,
    filter::Filters,
    output::Output,
    recording::{End, Ending, Recording, Start},
    report::{Checks, KernelSide, filter_words},
};

/// Prints the reports of every file; of several, a comparison at the end. What is wrong with one is said
/// on stderr and makes the status 1; the others are reported even so.
///
/// # Errors
/// Where a filter cannot be understood, or stdout refuses.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let filters = filters_of_recording(&args.filters)?;
    let mut comparison =
        (args.files.len() > 1 && args.output.format == Format::Text).then(Comparison::default);
    let mut status = ExitCode::SUCCESS;
    for path in &args.files {
        let recording = match Recording::open(path) {
            Ok(recording) => recording,
            Err(error) => {
                eprintln!("connect-trace: {error:#}");
                status = ExitCode::FAILURE;
                continue;
            }
        };
        let left_out = &recording.start().filters;
        if !left_out.is_empty() {
            eprintln!(
                "{}: recorded with {left_out}: no other connect() is in it",
                path.display()
            );
        }
        let mut row = comparison
            .is_some()
            .then(|| Row::new(path, recording.start()));
        if row.is_some() {
            heading(path, recording.start())?;
        }
        if let Err(message) = replay(recording, &filters, &args.output, row.as_mut())? {
            eprintln!("connect-trace: {}: {message}", path.display());
            status = ExitCode::FAILURE;
        }
        if let (Some(comparison), Some(row)) = (&mut comparison, row) {
            comparison.rows.push(row);
            writeln!(io::stdout())?;
        }
    }
    if let Some(comparison) = comparison {
        write!(io::stdout().lock(), "{comparison}")?;
    }
    Ok(status)
}

/// Which recording the report is of.
fn heading(path: &Path, start: &Start) -> io::Result<()> {
    writeln!(
        io::stdout(),
        "=== {} ===\n{}, {}",
        path.display(),
        start.host,
        Time::from(wall_clock(start, start.monotonic_ns)).date_and_time(),
    )
}

/// The time of day at a moment of the events' clock.
fn wall_clock(start: &Start, monotonic_ns: u64) -> SystemTime {
    let since = monotonic_ns.saturating_sub(start.monotonic_ns);
    let wall = Duration::from_nanos(start.wall_ns.saturating_add(since));
    SystemTime::UNIX_EPOCH + wall
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
            if filters.matches(connect) {
                intervals.output.connect(connect)?;
                if let Some(row) = &mut row {
                    row.connect(connect);
                }
            }
        }
        Ok(())
    })?;
    let (end, message) = match &ending {
        Ending::Whole(end) => (Some(&**end), Ok(())),
        Ending::Broken(broken) => (None, Err(broken.to_string())),
    };
    if let (Some(row), Some(end)) = (row, end) {
        row.end(end);
    }
    intervals.end(end)?;
    Ok(message)
}

/// Hands over the batches of a recording while a thread reads the next ones.
fn each_batch(
    mut recording: Recording,
    mut each: impl FnMut(Vec<Connect>) -> Result<()>,
) -> Result<Ending> {
    /// Batches that are ready and wait.
    const AHEAD: usize = 4;
    let (sender, batches) = mpsc::sync_channel(AHEAD);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                let batch = recording.next_batch();
                // Nobody takes it any more where stdout refused.
                if batch.is_empty() || sender.send(batch).is_err() {
                    return recording.ending().cloned();
                }
            }
        });
        // Owned by this loop: with an error it goes, and the reader ends.
        for batch in batches {
            each(batch)?;
        }
        let ending = reader.join().ok().flatten();
        ending.context("the reading of the recording ended early")
    })
}

/// The reports of a recording: by intervals of the events' own time, or one.
struct Intervals {
    output: Output,
    start: Start,
    interval_ns: Option<u64>,
    /// When the report that is being collected began.
    since_ns: u64,
    /// When the last connect so far ended.
    last_ns: u64,
}

impl Intervals {
    fn new(output: Output, start: Start, interval: Option<Duration>) -> Self {
        Self {
            output,
            interval_ns: interval.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            since_ns: start.monotonic_ns,
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

    fn pass_until(&mut self, now: u64) -> Result<()> {
        let Some(interval) = self.interval_ns else {
            return Ok(());
        };
        while now.saturating_sub(self.since_ns) >= interval {
            self.report(self.since_ns + interval, unknown(Unknown::Interval))?;
        }
        Ok(())
    }

    /// Prints the last report.
    fn end(&mut self, end: Option<&End>) -> Result<()> {
        let Some(end) = end else {
            return self.report(self.last_ns, unknown(Unknown::Cut));
        };
        let now = end.monotonic_ns.max(self.last_ns);
        self.pass_until(now)?;
        self.report(now, end.kernel_side.clone())
    }

    fn report(&mut self, until_ns: u64, kernel_side: KernelSide) -> Result<()> {
        let elapsed = Duration::from_nanos(until_ns.saturating_sub(self.since_ns));
        self.since_ns = until_ns;
        let at = wall_clock(&self.start, until_ns);
        self.output.report(at, elapsed, kernel_side)
    }
}

/// The options that the recording was made with, and those of this report.
fn words(start: &Start, filters: &Filters) -> Vec<String> {
    let recorded = Some(start.filters.clone()).filter(|words| !words.is_empty());
    recorded.into_iter().chain(filter_words(filters)).collect()
}

/// What the last report of a whole recording says, and no other.
fn unknown(why: Unknown) -> KernelSide {
    KernelSide {
        checks: Checks {
            mode: "off".to_owned(),
            ..Checks::default()
        },
        accounting: Accounting {
            unknown: Some(why),
            ..Accounting::default()
        },
        ..KernelSide::default()
    }
}
