//! `connect-trace report`: the reports of recordings, as a trace prints them.

pub(crate) mod args;
mod comparison;
#[cfg(test)]
mod fuzz;
mod json;

use std::{
    collections::HashMap,
    io::{self, Read, Write as _},
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
    connect::{Connect, ConnectionEvent},
    filter::{Filters, filter_words, filters_of_recording},
    options::Format,
    recording::{self, End, Ending, Recording, Start, each_batch, named_files},
    replay::args::ReportArgs,
    report::{junit::JunitFile, output::Output, route_ports},
    rules::{Findings, Verdict},
    stats::{
        BelowMinimum, Traced,
        accounting::{Accounting, Unknown},
        report::{Checks, KernelSide},
    },
    term::{
        characters::Characters,
        message::say,
        printable::printable,
        stdout::{stdout, unless_closed},
        terminal::paint,
    },
};

/// Prints the reports of every file, and for several files a comparison at the end. A problem with a file is
/// reported on stderr and sets the exit status to 1; the other files are still reported.
///
/// # Errors
/// If a filter cannot be resolved, or stdout cannot be written.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let mut junit = JunitFile::of(&args.rules)?;
    let mut found = Found::default();
    // If the reader of stdout has gone, the status found before is kept.
    unless_closed(reports(args, junit.as_mut(), &mut found))?;
    if let Some(junit) = junit {
        junit.write()?;
    }
    Ok(match found {
        Found { rules, .. } if rules != Verdict::Held => ExitCode::from(Findings::EXIT_STATUS),
        Found {
            has_problem: true, ..
        } => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

/// The findings that decide on the exit status.
struct Found {
    /// True if a recording has a problem.
    has_problem: bool,
    /// The worst result of a rule.
    rules: Verdict,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            has_problem: false,
            rules: Verdict::Held,
        }
    }
}

impl Found {
    /// Adds the results of rules on a recording.
    fn judged(&mut self, name: &str, findings: &Findings, junit: Option<&mut JunitFile>) {
        self.rules = self.rules.max(findings.verdict());
        if let Some(junit) = junit {
            junit.add(name, findings);
        }
    }
}

/// Prints the reports, and keeps in `found` what decides on the exit status.
fn reports(args: &ReportArgs, mut junit: Option<&mut JunitFile>, found: &mut Found) -> Result<()> {
    let filters = filters_of_recording(&args.filters)?;
    let files = named_files(&args.files);
    let mut comparison =
        (files.len() > 1 && args.output.format == Format::Text).then(Comparison::default);
    for file in files {
        let opened = file.and_then(|path| Ok((Recording::open(&path)?, path)));
        let (recording, path) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                say!("connect-trace: {error:#}");
                found.has_problem = true;
                let findings = Findings::unproven(&args.rules.expect, &format!("{error:#}"));
                found.judged(
                    "a recording that cannot be read",
                    &findings,
                    junit.as_deref_mut(),
                );
                continue;
            }
        };
        let left_out = &recording.start().filters;
        if !left_out.is_empty() {
            say!(
                "{}: recorded with {left_out}: it has no other connect() calls",
                printable(&path)
            );
        }
        let mut row = comparison
            .is_some()
            .then(|| Row::new(&path, recording.start()));
        match args.output.format {
            Format::Text => heading(row.is_some().then_some(path.as_path()), &recording)?,
            Format::Json => {
                json::write_recording(&mut stdout(), &path, recording.start(), recording.kept())?;
            }
        }
        let output = |traced| Output::new(&args.output, traced).with_rules(&args.rules.expect);
        let interval = args.output.interval;
        let judge = |findings: &Findings| {
            found.judged(
                &printable(&path).to_string(),
                findings,
                junit.as_deref_mut(),
            );
        };
        let replayed = replay(recording, &filters, output, interval, row.as_mut(), judge)?;
        if let Err(message) = replayed {
            say!("connect-trace: {}: {message}", printable(&path));
            found.has_problem = true;
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

/// Prints host and time of a recording, its name if there are several, and why it was kept if it was in memory.
fn heading(path: Option<&Path>, recording: &Recording) -> io::Result<()> {
    let (mut out, start) = (stdout(), recording.start());
    if let Some(path) = path {
        writeln!(out, "=== {} ===", printable(path))?;
    }
    let began = Time::from(start.wall_clock(start.monotonic_ns));
    writeln!(out, "{}, {}", start.host, began.date_and_time())?;
    let Some(kept) = recording.kept() else {
        return Ok(());
    };
    writeln!(out, "Kept because {kept}")?;
    if let Some(ports) = &kept.ports {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = route_ports::write(
            &mut text,
            paint(),
            Characters::of_locale(),
            ports,
            &HashMap::new(),
        );
        write!(out, "{text}")?;
    }
    Ok(())
}

/// Prints the reports of one recording, and passes the results of rules to `judge` before it prints them. The inner error
/// describes a problem with the recording's end.
fn replay<R: Read + Send>(
    recording: Recording<R>,
    filters: &Filters,
    output: impl FnOnce(Traced) -> Output,
    interval: Option<Duration>,
    mut row: Option<&mut Row>,
    judge: impl FnMut(&Findings),
) -> Result<Result<(), String>> {
    let start = recording.start().clone();
    let offset_ns = i128::from(start.wall_ns) - i128::from(start.monotonic_ns);
    let traced = Traced {
        kernel: start.kernel.clone(),
        attached: start.attached.clone(),
        filters: words(&start, filters),
    };
    let output = output(traced)
        .of_the_past()
        .with_clock(Clock::fixed(i64::try_from(offset_ns).unwrap_or(0)));
    let mut intervals = Intervals::new(output, start, interval);
    let ending = each_batch(recording, |batch| {
        for entry in &batch {
            let connect = match entry {
                recording::Row::Connect(connect) => connect,
                recording::Row::Event(event) => {
                    intervals.pass_at(event.at_ns())?;
                    let connect = &event.connect;
                    if filters.wants(connect) && !filters.is_below_minimum(connect) {
                        intervals.ended(event)?;
                    }
                    continue;
                }
            };
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
            let unfiltered = leave_out_fast(&mut end, filters);
            end.kernel_side.fast = end.kernel_side.fast.and(&intervals.fast);
            if let Some(row) = row {
                row.end(&end.kernel_side);
            }
            intervals.end(*end, unfiltered, judge)?;
            Ok(Ok(()))
        }
        Ending::Broken(broken) => {
            intervals.cut(judge)?;
            Ok(Err(broken.to_string()))
        }
    }
}

/// Leaves out the calls below the trace's `--min-latency` if there are other filters: only sums are known of
/// these calls, so a filter cannot be applied to them. Another `--min-latency` still counts them. Returns the number of
/// calls that are left out.
fn leave_out_fast(end: &mut End, filters: &Filters) -> u64 {
    let fast = mem::take(&mut end.kernel_side.fast);
    let others = Filters {
        min_latency: None,
        ..filters.clone()
    };
    if filter_words(&others).is_empty() {
        end.kernel_side.fast = fast;
        return 0;
    }
    if fast.count() > 0 {
        say!(
            "{} connect() calls below the trace's --min-latency were only counted: the filters leave them out",
            fast.count()
        );
    }
    fast.count()
}

/// The reports of a recording: one for each interval of the events' own time, or a single one.
struct Intervals {
    output: Output,
    start: Start,
    interval_ns: Option<u64>,
    /// Start of the current report (`CLOCK_MONOTONIC`).
    since_ns: u64,
    /// Rows in the current report.
    connects: u64,
    /// Calls below this report's `--min-latency`, since the start, as the kernel would have counted them.
    fast: BelowMinimum,
    /// End of the last connect() so far.
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

    /// Prints the reports of the intervals that are over at the end of this connect(). Its end is decisive,
    /// as in a trace, because the kernel delivers the record then.
    fn pass(&mut self, connect: &Connect) -> Result<()> {
        self.pass_at(connect.start_ns.saturating_add(connect.connect_ns))
    }

    /// Prints the reports of the intervals that are over at this time.
    fn pass_at(&mut self, now: u64) -> Result<()> {
        self.last_ns = self.last_ns.max(now);
        self.pass_until(now)
    }

    fn connect(&mut self, connect: &Connect) -> Result<()> {
        self.connects += 1;
        self.output.connect(connect)
    }

    fn ended(&mut self, event: &ConnectionEvent) -> Result<()> {
        self.connects += 1;
        self.output.ended(event)
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
            // A series of empty intervals gets a single report: they may span years.
            let intervals = match self.connects {
                0 => (now - self.since_ns) / interval,
                _ => 1,
            };
            let until = self.since_ns + intervals * interval;
            self.report(until, self.unknown(Unknown::Interval))?;
        }
        Ok(())
    }

    /// Prints the last report, and the results of rules.
    fn end(&mut self, end: End, unfiltered: u64, judge: impl FnMut(&Findings)) -> Result<()> {
        let now = end.monotonic_ns.max(self.last_ns);
        // An interval that ends together with the recording is the last report.
        self.pass_until(now.saturating_sub(1))?;
        self.last(now, end.kernel_side, unfiltered, judge)
    }

    /// Prints the last report of a recording without an end, and the results of rules.
    fn cut(&mut self, judge: impl FnMut(&Findings)) -> Result<()> {
        self.last(self.last_ns, self.unknown(Unknown::Cut), 0, judge)
    }

    fn last(
        &mut self,
        until_ns: u64,
        kernel_side: KernelSide,
        unfiltered: u64,
        mut judge: impl FnMut(&Findings),
    ) -> Result<()> {
        let findings = self.output.judge(&kernel_side, unfiltered);
        if let Some(findings) = &findings {
            judge(findings);
        }
        self.report(until_ns, kernel_side)?;
        match findings {
            Some(findings) => self.output.findings(&findings),
            None => Ok(()),
        }
    }

    fn report(&mut self, until_ns: u64, kernel_side: KernelSide) -> Result<()> {
        let elapsed = Duration::from_nanos(until_ns.saturating_sub(self.since_ns));
        self.since_ns = until_ns;
        self.connects = 0;
        let at = self.start.wall_clock(until_ns);
        self.output.report(at, elapsed, kernel_side)
    }

    /// Returns the kernel's side for all reports except the last one of a complete recording, the only one
    /// with an account.
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

/// Returns the filters of the recording and those of this report.
fn words(start: &Start, filters: &Filters) -> Vec<String> {
    let recorded = Some(start.filters.clone()).filter(|words| !words.is_empty());
    recorded.into_iter().chain(filter_words(filters)).collect()
}
