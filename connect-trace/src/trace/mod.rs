//! The trace of a command line: prints reports and events, records, draws, and ends in order.

pub(crate) mod args;
mod bursts;
pub(crate) mod child;
pub mod config;
mod ends;
pub(crate) mod flame;
mod loss_log;
mod overhead_control;
pub(crate) mod priority;
pub(crate) mod session;
pub(crate) mod signals;
pub(crate) mod status_line;
pub mod tracer;

use std::{
    mem,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use tokio::time::{Instant, interval_at, sleep_until};

use crate::{
    clock::monotonic_ns,
    filter::filter_words,
    flame::{Flame, Prepared},
    kernel::{self, access},
    recording::Recorder,
    report::{junit::JunitFile, output::Output},
    routes::RouteWatch,
    rules::{Findings, Verdict},
    stats::Traced,
    term::{
        message::{self, say},
        numbers::counted,
        stdout::{Refused, unless_closed},
    },
    trace::{
        child::{Command, exit_as},
        config::Config,
        priority::without_huge_pages,
        session::{DRAIN_BUDGET, Drained, Session},
        signals::Signals,
        status_line::StatusLine,
    },
};

const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Time that a command has to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// Traces until the end and prints the reports. The exit status is that of the command, if there is one that fails, and
/// otherwise 3 if a rule does not hold.
///
/// # Errors
/// If tracing cannot start, or a report cannot be written.
pub fn run(config: &Config) -> Result<ExitCode> {
    access::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Caught before any message says that there is a trace to end.
    let signals = {
        let _context = runtime.enter();
        Signals::catch()?
    };
    let recording = Recorder::create(&config.recording)?;
    let junit = JunitFile::of(&config.rules)?;
    let flame_files = config.flame.as_ref().map(Prepared::new).transpose()?;
    let mut config = config.clone();
    let mut command = None;
    if !config.command.is_empty() {
        let held = Command::hold(&config.command)?;
        config.probes.filters.pids = vec![held.pid()];
        config.probes.filters.follow = true;
        command = Some(held);
    }
    // Set after the command was forked, which must not inherit it.
    without_huge_pages();
    let mut daemon = {
        let _context = runtime.enter();
        Daemon::start(&config, recording, flame_files)?
    };
    if let Some(command) = &mut command {
        command.release()?;
    }
    let ended = runtime.block_on(daemon.trace(&config, signals, command.as_mut()));
    let timed_out = matches!(ended, Ok(Cause::Time));
    if let Some(command) = command.as_ref().filter(|_| timed_out) {
        command.pass_on(libc::SIGTERM);
    }
    // The results are printed no matter what ended the trace.
    let last = daemon.finish();
    let kept = !daemon.recording.failed() && !daemon.refused;
    let findings = daemon.findings.take();
    if let (Some(mut junit), Some(findings)) = (junit, &findings) {
        junit.add("connect-trace", findings);
        junit.write()?;
    }
    let mut status = None;
    if let Some(command) = &mut command {
        if timed_out {
            command.wait_at_most(PATIENCE)?;
        }
        status = command.ended()?;
        if let Some(left) = left_behind(&daemon.session.tracer().probes().processes_left()?) {
            log::warn!("{}: {left}", command.name());
        }
    }
    drop(daemon);
    unless_closed(ended.and(last))?;
    Ok(match status {
        Some(status) if !status.success() && !timed_out => exit_as(status),
        _ if findings.is_some_and(|findings| findings.verdict() != Verdict::Held) => {
            ExitCode::from(Findings::EXIT_STATUS)
        }
        _ if kept => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The reason why a trace ended.
enum Cause {
    /// The time of `--duration` is over.
    Time,
    /// A signal, or the end of all traced processes.
    Other,
}

/// Returns a message about the processes of a command that still run, if any do.
fn left_behind(processes: &[u32]) -> Option<String> {
    const SHOWN: usize = 4;
    let ids: Vec<String> = processes.iter().take(SHOWN).map(u32::to_string).collect();
    let more = processes.len().saturating_sub(SHOWN);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    (!ids.is_empty()).then(|| {
        format!(
            "{} of the command still running, no longer traced: {}{more}; to go on tracing, use --follow --pid",
            counted(processes.len() as u64, "process", "processes"),
            ids.join(", "),
        )
    })
}

/// A trace, and its results since the last report.
struct Daemon {
    session: Session,
    output: Output,
    /// Start of the period of the next report.
    since: Instant,
    recording: Recorder,
    /// True once stdout has refused a write.
    refused: bool,
    /// Set if a flame graph is made.
    flame: Option<Flame>,
    /// The routes that fill up, with `--ports`.
    routes: Option<RouteWatch>,
    /// Results of the rules, at the end of a trace with rules.
    findings: Option<Findings>,
    /// False if only the flame graph is wanted.
    reports: bool,
    quiet: bool,
}

impl Daemon {
    fn start(
        config: &Config,
        mut recording: Recorder,
        flame_files: Option<Prepared>,
    ) -> Result<Self> {
        let filters = &config.probes.filters;
        let is_prompt =
            !filters.pids.is_empty() || !filters.cgroups.is_empty() || config.output.events;
        let mut session = Session::start(&config.probes, config.max_overhead, is_prompt)?;
        let probes = session.tracer().probes();
        let stacks = probes.take_stacks();
        let flame = match (stacks, config.probes.stacks_hertz, flame_files) {
            (Some(stacks), Some(hertz), Some(files)) => Some(Flame::start(stacks, hertz, files)?),
            _ => None,
        };
        let attached = probes.mode().to_string();
        let notes = probes.notes().join("; ");
        recording.begin(&attached, filters);
        let end = match (config.duration, config.command.first()) {
            (None, None) => "... Press Ctrl-C to stop.",
            _ => ".",
        };
        // Created before the message that tracing goes on: after the message, the clock may be set.
        let traced = Traced {
            kernel: kernel::release(),
            attached: attached.clone(),
            filters: filter_words(filters),
        };
        let output = Output::new(&config.output, traced).with_rules(&config.rules.expect);
        let output = if config.uses_stdout() {
            output.on_stderr()
        } else {
            output
        };
        // The period of the report includes every call after the message.
        let since = Instant::now();
        if !config.quiet {
            say!("Attached by {attached}: {notes}.");
            say!("Tracing connect() on Linux {}{end}", kernel::release());
        }
        Ok(Self {
            session,
            output,
            since,
            recording,
            refused: false,
            flame,
            routes: config.ports.then(|| RouteWatch::new(true)),
            findings: None,
            reports: config.reports,
            quiet: config.quiet,
        })
    }

    /// Traces until a signal, the end of the time, or the end of all traced processes.
    async fn trace(
        &mut self,
        config: &Config,
        mut signals: Signals,
        mut command: Option<&mut Command>,
    ) -> Result<Cause> {
        let start = Instant::now();
        let mut status_line = StatusLine::new(config);
        let mut status = interval_at(start + STATUS_EVERY, STATUS_EVERY);
        let only_some = !config.probes.filters.pids.is_empty();
        let mut signalled = false;
        let never = Duration::from_secs(u32::MAX.into());
        let mut report = interval_at(
            start + config.output.interval.unwrap_or(never),
            config.output.interval.unwrap_or(never),
        );
        let end = sleep_until(start + config.duration.unwrap_or(never));
        tokio::pin!(end);
        // The command may have ended before SIGCHLD was waited for.
        if let Some(command) = &mut command
            && command.ended()?.is_some()
        {
            return Ok(Cause::Other);
        }
        loop {
            let received = tokio::select! {
                biased;
                _ = signals.interrupt.recv() => Some(libc::SIGINT),
                _ = signals.terminate.recv() => Some(libc::SIGTERM),
                _ = signals.hangup.recv() => Some(libc::SIGHUP),
                _ = signals.child.recv() => {
                    if let Some(command) = &mut command && command.ended()?.is_some() {
                        break;
                    }
                    None
                }
                () = &mut end => return Ok(Cause::Time),
                due = self.session.next() => {
                    due?;
                    let is_empty = self.drain(DRAIN_BUDGET)?;
                    self.session.drained(is_empty)?;
                    // The trace of a command ends when the command ends.
                    if only_some
                        && !self.session.tracer().probes().any_process()?
                        && command.is_none()
                    {
                        if !config.quiet {
                            drop(status_line.take());
                            say!("All traced processes have ended.");
                        }
                        break;
                    }
                    None
                }
                _ = status.tick(), if status_line.is_some() => {
                    let tracer = self.session.tracer();
                    let lost = tracer.accounting()?.lost();
                    if let Some(line) = &mut status_line {
                        line.update(start.elapsed(), tracer.decoded(), lost);
                    }
                    None
                }
                _ = report.tick() => {
                    self.report(false)?;
                    None
                }
            };
            // The command decides how to react to the first signal; the second one ends the trace.
            match (received, &command) {
                (Some(signal), Some(command)) if !signalled => {
                    command.pass_on(signal);
                    signalled = true;
                }
                (Some(_), _) => break,
                (None, _) => {}
            }
        }
        Ok(Cause::Other)
    }

    /// Processes the records in the ring buffer, and returns whether that was all.
    fn drain(&mut self, budget: Duration) -> Result<bool> {
        let Self {
            session,
            output,
            recording,
            flame,
            routes,
            ..
        } = self;
        let mut printed = Ok(());
        let read_ns = monotonic_ns();
        let is_empty = session.drain(budget, |drained| {
            let taken = match drained {
                Drained::Connect(connect) => {
                    if let Some(routes) = routes {
                        routes.connect(connect);
                    }
                    recording.connect(connect, || routes.as_ref()?.percent_in_use(connect));
                    if let Some(flame) = flame {
                        flame.saw(connect);
                    }
                    output.connect(connect)
                }
                Drained::Ended(event) => {
                    recording.ended(event);
                    if let Some(routes) = routes {
                        routes.ended(event);
                    }
                    output.ended(event)
                }
            };
            if printed.is_ok() {
                printed = taken;
            }
        });
        recording.tick(
            || session.counted(),
            |connect| match routes {
                Some(routes) => routes.ports_of(connect),
                None => RouteWatch::new(true).ports_of(connect),
            },
        )?;
        if let Some(routes) = routes
            && is_empty
        {
            routes.look(read_ns, session.coverage());
        }
        if let Some(flame) = flame {
            flame.read(is_empty);
        }
        let printed = printed.and(output.flush());
        self.printed(printed)?;
        Ok(is_empty)
    }

    /// Continues if stdout refuses a write, for example because the disk is full, and says so once: nothing that is
    /// counted or recorded is lost. A reader that has closed the pipe ends the trace.
    fn printed(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if Refused::of(&error).is_some_and(|refused| !refused.is_closed()) => {
                if !mem::replace(&mut self.refused, true) {
                    message::failure(&error);
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Detaches, and prints the results since the last report.
    fn finish(&mut self) -> Result<()> {
        let stopped = self.session.stop();
        // No more records come: all that are left are read, no matter how long it takes.
        let drained = self.drain(Duration::MAX);
        let reported = self.report(true);
        let drawn = self.draw();
        stopped.and(drained).and(reported).and(drawn)
    }

    /// Writes the flame graph, if one is made.
    fn draw(&mut self) -> Result<()> {
        let Some(flame) = self.flame.take() else {
            return Ok(());
        };
        let counts = self.session.tracer().probes().stack_counts()?;
        flame.finish(counts, &kernel::release(), self.quiet)
    }

    /// Prints the results since the last report.
    fn report(&mut self, is_last: bool) -> Result<()> {
        let drained = self.drain(DRAIN_BUDGET);
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let mut kernel_side = self.session.kernel_side()?;
        let routes = self.routes.as_mut();
        kernel_side.filling = routes.map(|routes| routes.report(monotonic_ns()));
        if is_last {
            self.recording.finish(&kernel_side);
            self.findings = self.output.judge(&kernel_side, 0);
        }
        if !self.reports {
            return drained.map(drop);
        }
        let reported = self.output.report(SystemTime::now(), elapsed, kernel_side);
        let reported = self.printed(reported);
        let judged = match &self.findings {
            Some(findings) => self.output.findings(findings),
            None => Ok(()),
        };
        drained.and(reported).and(self.printed(judged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_that_go_on_are_told() {
        assert_eq!(left_behind(&[]), None);
        let one = left_behind(&[7]).unwrap();
        assert!(
            one.starts_with("1 process ") && one.contains(" 7;"),
            "{one}"
        );
        let many = left_behind(&[1, 2, 3, 4, 5, 6]).unwrap();
        assert!(many.contains("6 processes"), "{many}");
        assert!(many.contains(": 1, 2, 3, 4 and 2 more;"), "{many}");
    }
}
