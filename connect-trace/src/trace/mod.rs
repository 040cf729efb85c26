//! The running daemon: drains the ring buffer, watches candidate checks in bursts, prints reports, and ends in order.

pub mod args;
pub mod child;
pub mod config;
mod loss_log;
mod overhead_control;
mod priority;
pub mod status_line;
pub mod tracer;

use std::{
    mem,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{
    connect::{Connect, Family},
    files,
    filter::filter_words,
    kernel::{self, access, prototypes::CHECKS},
    overhead::Overhead,
    probes::checks::{Burst, Families},
    recording::Recorder,
    report::output::Output,
    stats::{
        BelowMinimum,
        report::{Checks, KernelSide},
    },
    term::{
        message::{self, say},
        numbers::counted,
        stdout::{Refused, unless_closed},
    },
    trace::{
        child::{Command, exit_as},
        config::Config,
        overhead_control::{OverheadControl, WINDOW},
        priority::{Priority, without_huge_pages},
        status_line::StatusLine,
        tracer::Tracer,
    },
};

/// Interval between two readings of the ring buffer. At 100,000 records a second and 128 bytes each, 600 KiB come
/// together: an eighth of the default buffer.
const DRAIN_EVERY: Duration = Duration::from_millis(50);
/// Longest time that one reading may take before the signals are looked at.
const DRAIN_BUDGET: Duration = Duration::from_millis(200);
/// Time until the next reading, if the last one did not empty the buffer.
const DRAIN_SOON: Duration = Duration::from_millis(1);

const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Time that a command has to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause after a burst as a multiple of the burst's duration. Attaching and detaching wait for grace periods of the
/// kernel, mostly 50 to 200 ms, at times more than a second, during which connect() calls take two to four times as
/// long.
const BURST_PAUSE: u32 = 200;
/// Shortest pause after a burst: the first burst is attached before any connect(), so its duration says little.
const BURST_PAUSE_LEAST: Duration = Duration::from_secs(60);

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
    let mut daemon = Daemon::start(&config, recording)?;
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

/// The signals that a trace handles.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    child: Signal,
    /// Caught so that it does not end this process if files may not grow (`ulimit -f`): writes then fail with an error.
    _file_size: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("wait for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("wait for SIGTERM")?,
            hangup: signal(SignalKind::hangup()).context("wait for SIGHUP")?,
            child: signal(SignalKind::child()).context("wait for SIGCHLD")?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ)).context("catch SIGXFSZ")?,
        })
    }
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
    precedence: Priority,
}

impl Daemon {
    fn start(config: &Config, mut recording: Recorder) -> Result<Self> {
        let mut tracer = Tracer::start(&config.probes)?;
        let probes = tracer.probes();
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
        let output = if config.record.as_deref().is_some_and(files::is_standard) {
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
            precedence: Priority::default(),
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
        let mut drain = interval_at(start + DRAIN_EVERY, DRAIN_EVERY);
        drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                _ = drain.tick() => {
                    let is_empty = self.drain(DRAIN_BUDGET)?;
                    self.precedence.set(!is_empty);
                    if !is_empty {
                        drain.reset_after(DRAIN_SOON);
                    }
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
            ..
        } = self;
        let mut printed = Ok(());
        let is_empty = tracer.drain(budget, |connect| {
            schedule.saw(connect);
            recording.connect(connect);
            let taken = output.connect(connect);
            if printed.is_ok() {
                printed = taken;
            }
        });
        recording.tick();
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
        let stopped = self.tracer.stop();
        // No more records come: all that are left are read, no matter how long it takes.
        let drained = self.drain(Duration::MAX);
        let reported = self.report(true);
        stopped.and(drained).and(reported)
    }

    /// Returns the overhead since the last report.
    fn new_overhead(&mut self) -> Result<Option<Overhead>> {
        let Some(now) = self.tracer.overhead()? else {
            return Ok(None);
        };
        let earlier = mem::replace(&mut self.overhead, now.clone());
        Ok(Some(now.since(&earlier)))
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
            accounting: self.tracer.accounting()?,
            // The sum since the start: the output subtracts the sum at the last report.
            fast: BelowMinimum::from(self.tracer.probes().maps().fast()),
            overhead: self.new_overhead()?,
            budget,
        };
        if is_last {
            self.recording.finish(&kernel_side);
        }
        let reported = self.output.report(SystemTime::now(), elapsed, kernel_side);
        drained.and(self.printed(reported))
    }
}

/// Schedule for watching `__inet{,6}_check_established`: from the start until enough calls were seen; after that only
/// with traffic, and for at most a two-hundredth of the time.
#[derive(Default)]
struct BurstSchedule {
    /// The families that searched for a port since the last burst.
    families: Families,
    /// Earliest time of the next burst; `None` while the first one runs.
    next: Option<Instant>,
    bursts: u64,
    watched: Duration,
}

/// Next step of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The first burst, which runs since the start, must end once it has seen enough calls.
    EndOfFirst,
    /// Another burst must begin, for these families.
    Burst(Families),
}

impl BurstSchedule {
    fn saw(&mut self, connect: &Connect) {
        if connect.search_ns.is_none() {
            return;
        }
        match connect.family {
            Family::V4 | Family::Mapped => self.families.v4 = true,
            Family::V6 => self.families.v6 = true,
        }
    }

    /// Returns the step that is due now.
    fn due(&mut self) -> Option<Due> {
        if !self.families.any() || self.next.is_some_and(|next| next > Instant::now()) {
            return None;
        }
        let families = mem::take(&mut self.families);
        Some(match self.next {
            None => Due::EndOfFirst,
            Some(_) => Due::Burst(families),
        })
    }

    fn done(&mut self, burst: Burst) {
        self.bursts += 1;
        self.watched += burst.watched;
        let took = match self.next {
            None => burst.attaching,
            Some(_) => burst.watched + burst.attaching,
        };
        self.next = Some(Instant::now() + (took * BURST_PAUSE).max(BURST_PAUSE_LEAST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

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

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_traffic_and_then_for_two_hundred_times_what_the_last_one_took() {
        let burst = |attaching| Burst {
            watched: Duration::from_millis(3),
            attaching: Duration::from_millis(attaching),
        };
        let mut schedule = BurstSchedule::default();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(schedule.due(), None, "no traffic, however long");
        schedule.saw(&connect_from(20_000));
        assert_eq!(schedule.due(), Some(Due::EndOfFirst));

        schedule.done(burst(5_000));
        schedule.done(burst(497));
        schedule.saw(&Connect {
            family: Family::V6,
            ..connect_from(20_000)
        });
        tokio::time::advance(Duration::from_millis(99_999)).await;
        assert_eq!(schedule.due(), None, "a two-hundredth of the time");
        tokio::time::advance(Duration::from_millis(1)).await;
        let families = Families {
            v4: false,
            v6: true,
        };
        assert_eq!(schedule.due(), Some(Due::Burst(families)), "what searched");
        schedule.done(burst(50));
        schedule.saw(&connect_from(20_000));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(schedule.due(), None, "a minute at least");
        schedule.families = Families::default();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(schedule.due(), None, "no traffic since");
        assert_eq!(
            (schedule.bursts, schedule.watched),
            (3, Duration::from_millis(9))
        );
    }
}
