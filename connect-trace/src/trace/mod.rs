//! The running daemon: drains the ring buffer, watches candidate checks in bursts, prints reports, and ends in order.

pub(crate) mod args;
mod bursts;
pub(crate) mod child;
pub mod config;
mod ends;
pub(crate) mod flame;
mod loss_log;
mod overhead_control;
mod priority;
mod signals;
pub(crate) mod status_line;
pub mod tracer;

use std::{
    mem,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use connect_trace_common::{ConnectRecord, EndRecord};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::{
    connect::TimeWaitSettings,
    filter::filter_words,
    flame::{Flame, Prepared},
    kernel::{self, access, limits, prototypes::CHECKS},
    overhead::Overhead,
    recording::Recorder,
    report::output::Output,
    stats::{
        BelowMinimum, TimeWait,
        report::{Checks, KernelSide},
    },
    term::{
        message::{self, say},
        numbers::counted,
        stdout::{Refused, unless_closed},
    },
    trace::{
        bursts::{BurstSchedule, Due},
        child::{Command, exit_as},
        config::Config,
        overhead_control::{OverheadControl, WINDOW},
        priority::{Priority, without_huge_pages},
        signals::Signals,
        status_line::StatusLine,
        tracer::Tracer,
    },
};

/// Shortest pause between two readings of the ring buffer. It is also the longest one if somebody waits for events, or for
/// the end of a process.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause. A reading costs as much as some thirty records.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Maximum rate of connect() calls on one CPU, per second: each takes five microseconds or more.
const CALLS_PER_CPU: u32 = 200_000;
/// Size of a record in the ring buffer, with its header.
const RECORD_BYTES: usize = 8 + size_of::<ConnectRecord>();
/// Size of what a connection that is followed writes into its ring buffer, of the same size: two records with their headers.
const END_BYTES: usize = 2 * (8 + size_of::<EndRecord>());
/// Longest time that one reading may take before the signals are looked at.
const DRAIN_BUDGET: Duration = Duration::from_millis(200);
/// Time until the next reading, if the last one did not empty the buffer.
const DRAIN_SOON: Duration = Duration::from_millis(1);

const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Time that a command has to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// Traces until the end and prints the reports. The exit status is that of the command, if there is one.
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
    let recording = Recorder::create(config.record.as_deref())?;
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
    let mut daemon = Daemon::start(&config, recording, flame_files)?;
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
    let mut status = None;
    if let Some(command) = &mut command {
        if timed_out {
            command.wait_at_most(PATIENCE)?;
        }
        status = command.ended()?;
        if let Some(left) = left_behind(&daemon.tracer.probes().processes_left()?) {
            log::warn!("{}: {left}", command.name());
        }
    }
    drop(daemon);
    unless_closed(ended.and(last))?;
    Ok(match status {
        Some(status) if !status.success() && !timed_out => exit_as(status),
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
    tracer: Tracer,
    output: Output,
    /// Start of the period of the next report.
    since: Instant,
    schedule: BurstSchedule,
    /// Overhead until the last report, if it is measured.
    overhead: Overhead,
    /// Set if there is an overhead limit.
    overhead_control: Option<OverheadControl>,
    recording: Recorder,
    /// True once stdout has refused a write.
    refused: bool,
    priority: Priority,
    /// Set if a flame graph is made.
    flame: Option<Flame>,
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
        let mut tracer = Tracer::start(&config.probes)?;
        let probes = tracer.probes();
        let stacks = probes.take_stacks();
        let flame = match (stacks, config.probes.stacks_hertz, flame_files) {
            (Some(stacks), Some(hertz), Some(files)) => Some(Flame::start(stacks, hertz, files)?),
            _ => None,
        };
        let attached = probes.mode().to_string();
        let notes = probes.notes().join("; ");
        recording.begin(&attached, &config.probes.filters);
        let end = match (config.duration, config.command.first()) {
            (None, None) => "... Press Ctrl-C to stop.",
            _ => ".",
        };
        // Created before the message that tracing goes on: after the message, the clock may be set.
        let output = Output::new(&config.output, kernel::release(), attached.clone())
            .with_filters(filter_words(&config.probes.filters));
        let output = if config.uses_stdout() {
            output.on_stderr()
        } else {
            output
        };
        let overhead_control = config
            .max_overhead
            .map(|limit| OverheadControl::new(limit, &mut tracer));
        let overhead = tracer.overhead()?.unwrap_or_default();
        // The period of the report includes every call after the message.
        let since = Instant::now();
        if !config.quiet {
            say!("Attached by {attached}: {notes}.");
            say!("Tracing connect() on Linux {}{end}", kernel::release());
        }
        Ok(Self {
            overhead,
            tracer,
            output,
            since,
            schedule: BurstSchedule::default(),
            overhead_control,
            recording,
            refused: false,
            priority: Priority::default(),
            flame,
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
        let filters = &config.probes.filters;
        let only_some = !filters.pids.is_empty();
        let bytes = match config.probes.max_connections {
            Some(_) => END_BYTES,
            None => RECORD_BYTES,
        };
        let mut pause = pause(config.probes.ring_buffer_bytes, bytes, limits::cpus());
        if only_some || !filters.cgroups.is_empty() || config.output.events {
            pause = SHORTEST_PAUSE;
        }
        let mut signalled = false;
        let drain = sleep_until(start + SHORTEST_PAUSE);
        tokio::pin!(drain);
        let never = Duration::from_secs(u32::MAX.into());
        let mut report = interval_at(
            start + config.output.interval.unwrap_or(never),
            config.output.interval.unwrap_or(never),
        );
        let end = sleep_until(start + config.duration.unwrap_or(never));
        tokio::pin!(end);
        let bursts = self.tracer.probes().watcher().bursts();
        let mut burst = None;
        // The first window begins after a second, during which CPU time is still that of the start.
        let mut window = interval_at(start + WINDOW, WINDOW);
        window.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = None;

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
                () = &mut drain => {
                    let is_empty = self.drain(DRAIN_BUDGET)?;
                    self.priority.set(!is_empty);
                    let pause = match is_empty {
                        false => DRAIN_SOON,
                        // The number of candidate checks seen decides when the first burst ends.
                        true if bursts.is_some() && self.schedule.is_first() => SHORTEST_PAUSE,
                        true => pause,
                    };
                    drain.as_mut().reset(Instant::now() + pause);
                    self.tracer.probes().follow_cgroups()?;
                    // The trace of a command ends when the command ends.
                    if only_some && !self.tracer.probes().any_process()? && command.is_none() {
                        if !config.quiet {
                            drop(status_line.take());
                            say!("All traced processes have ended.");
                        }
                        break;
                    }
                    if let (Some(bursts), None) = (&bursts, &burst)
                        && self.overhead_control.as_ref().is_none_or(OverheadControl::may_watch)
                        && let Some(due) = self.schedule.due()
                    {
                        let bursts = bursts.clone();
                        burst = Some(tokio::task::spawn_blocking(move || {
                            match due {
                                Due::EndOfFirst => bursts.end_first(),
                                Due::Burst(families) => bursts.run(families),
                            }
                        }));
                    }
                    None
                }
                _ = status.tick(), if status_line.is_some() => {
                    let lost = self.tracer.accounting()?.lost();
                    if let Some(line) = &mut status_line {
                        line.update(start.elapsed(), self.tracer.decoded(), lost);
                    }
                    None
                }
                _ = report.tick() => {
                    self.report(false)?;
                    None
                }
                done = async { burst.as_mut().expect("guarded by the condition").await },
                    if burst.is_some() =>
                {
                    burst = None;
                    self.schedule.done(done.context("a burst of watching port checks failed")??);
                    None
                }
                _ = window.tick(), if self.overhead_control.is_some() && step.is_none() => {
                    if let Some(overhead_control) = &mut self.overhead_control {
                        step = overhead_control.window(&mut self.tracer)?;
                    }
                    None
                }
                done = async { step.as_mut().expect("guarded by the condition").await },
                    if step.is_some() =>
                {
                    step = None;
                    if let Some(ended) = done.context("a change to keep --max-overhead failed")?? {
                        self.schedule.done(ended);
                    }
                    if let Some(overhead_control) = &mut self.overhead_control {
                        overhead_control.arrived(&mut self.tracer)?;
                    }
                    window.reset();
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
            tracer,
            output,
            schedule,
            recording,
            flame,
            ..
        } = self;
        let mut printed = Ok(());
        let is_empty = tracer.drain(budget, |connect| {
            schedule.saw(connect);
            recording.connect(connect);
            if let Some(flame) = flame {
                flame.saw(connect);
            }
            let taken = output.connect(connect);
            if printed.is_ok() {
                printed = taken;
            }
        });
        let no_ends = tracer.drain_ends(budget, |event| {
            recording.ended(event);
            let taken = output.ended(event);
            if printed.is_ok() {
                printed = taken;
            }
        });
        recording.tick();
        if let Some(flame) = flame {
            flame.read(is_empty);
        }
        let printed = printed.and(output.flush());
        self.printed(printed)?;
        Ok(is_empty && no_ends)
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
        let stopped = self.tracer.stop();
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
        let counts = self.tracer.probes().stack_counts()?;
        flame.finish(counts, &kernel::release(), self.quiet)
    }

    /// Returns the overhead since the last report.
    fn new_overhead(&mut self) -> Result<Option<Overhead>> {
        let Some(now) = self.tracer.overhead()? else {
            return Ok(None);
        };
        let earlier = mem::replace(&mut self.overhead, now.clone());
        Ok(Some(now.since(&earlier)))
    }

    /// Returns the candidate ports in TIME_WAIT since the start, if they are counted.
    fn time_wait(&mut self) -> Result<Option<TimeWait>> {
        let counted = self.tracer.probes().time_wait()?;
        Ok(counted.map(|(counts, skipped)| TimeWait {
            counts,
            skipped,
            settings: TimeWaitSettings::of_this_namespace()
                .inspect_err(|error| log::debug!("{error}"))
                .ok(),
        }))
    }

    /// Prints the results since the last report.
    fn report(&mut self, is_last: bool) -> Result<()> {
        let drained = self.drain(DRAIN_BUDGET);
        let probes = self.tracer.probes();
        let mode = probes.watcher().mode();
        let functions = CHECKS
            .iter()
            .map(|function| function.name)
            .zip(probes.maps().checks())
            .collect();
        let checks = Checks {
            mode,
            bursts: self.schedule.bursts,
            watched: self.schedule.watched,
            functions,
        };
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let budget = match &mut self.overhead_control {
            Some(overhead_control) => Some(overhead_control.report(&mut self.tracer)?),
            None => None,
        };
        let kernel_side = KernelSide {
            checks,
            time_wait: self.time_wait()?,
            accounting: self.tracer.accounting()?,
            // The sum since the start: the output subtracts the sum at the last report.
            fast: BelowMinimum::from(self.tracer.probes().maps().fast()),
            ends: self.tracer.ends_account()?,
            overhead: self.new_overhead()?,
            budget,
        };
        if is_last {
            self.recording.finish(&kernel_side);
        }
        if !self.reports {
            return drained.map(drop);
        }
        let reported = self.output.report(SystemTime::now(), elapsed, kernel_side);
        drained.and(self.printed(reported))
    }
}

/// Returns a pause in which no more records come than the ring buffer holds.
fn pause(ring_buffer_bytes: u32, bytes_per_call: usize, cpus: u32) -> Duration {
    let records = f64::from(ring_buffer_bytes) / bytes_per_call as f64;
    let fills_in = records / (f64::from(cpus) * f64::from(CALLS_PER_CPU));
    Duration::from_secs_f64(fills_in).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_as_long_as_the_ring_buffer_holds_what_all_cpus_make() {
        let ms = |mib: u32, cpus| pause(mib << 20, RECORD_BYTES, cpus).as_millis();
        assert_eq!([1, 2, 8, 64].map(|cpus| ms(8, cpus)), [200, 154, 50, 50]);
        assert_eq!(ms(32, 8), 154, "four times as large for four times as many");
        let with_ends = pause(8 << 20, END_BYTES, 1);
        assert!(with_ends < pause(8 << 20, RECORD_BYTES, 1));
    }

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
