//! The running daemon: drains the ring buffer, watches in bursts, prints reports, and ends well.

use std::{
    mem,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use connect_trace_common::ConnectRecord;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use crate::{
    aggregate::FastConnects,
    command::{Command, exit_as},
    config::Config,
    event::{Connect, Family},
    files,
    governor::{Governor, WINDOW},
    kernel::{self, access, limits, prototypes::CHECKS},
    output::Output,
    overhead::Overhead,
    precedence::{Precedence, without_huge_pages},
    probes::checks::{Burst, Families},
    recording::Keeper,
    report::{Checks, KernelSide, filter_words, numbers::counted},
    status_line::StatusLine,
    term::{
        message::{self, say},
        stdout::{Refused, unless_closed},
    },
    tracer::Tracer,
};

/// The pause between two looks at the ring buffer, and at processes and cgroups, if somebody waits for what is seen.
const PAUSE_IF_AWAITED: Duration = Duration::from_millis(50);
/// The longest pause: a look costs as much as some thirty records.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// The shortest pause, on hosts with many CPUs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Calls of connect() that one CPU makes in a second, at most: each takes five microseconds and more.
const CALLS_PER_CPU: u32 = 200_000;
/// Bytes of a record in the ring buffer, its header among them.
const RECORD_BYTES: usize = 8 + size_of::<ConnectRecord>();
/// Longest that one look may take before the signals are looked at.
const DRAIN_BUDGET: Duration = Duration::from_millis(200);
/// Until the next look, after one that did not come to the end.
const DRAIN_SOON: Duration = Duration::from_millis(1);

const STATUS_EVERY: Duration = Duration::from_secs(1);

/// For a command to end, after it was told that its time is over.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause after a burst as a multiple of the time that it took. Attaching and detaching wait for grace
/// periods of the kernel, mostly 50 to 200 ms, at times more than a second, in which connects are two to
/// four times as long.
const BURST_PAUSE: u32 = 200;
/// The first one is attached before the connects, so its time says little.
const BURST_PAUSE_LEAST: Duration = Duration::from_secs(60);

/// Traces until the end and prints the reports. The status is that of the command, where there is one.
///
/// # Errors
/// Where tracing cannot start, or a report cannot be written.
pub fn run(config: &Config) -> Result<ExitCode> {
    access::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before anybody is told that there is a trace to end.
    let signals = {
        let _context = runtime.enter();
        Signals::catch()?
    };
    let recording = Keeper::create(config.record.as_deref())?;
    let mut config = config.clone();
    let mut command = None;
    if !config.command.is_empty() {
        let held = Command::hold(&config.command)?;
        config.probes.filters.pids = vec![held.pid()];
        config.probes.filters.follow = true;
        command = Some(held);
    }
    // After the command, which is not to inherit it.
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
    // Whatever ended it: what was measured is printed.
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
    /// `--duration`
    Time,
    /// A signal, or the end of all that is traced.
    Other,
}

/// Says which processes of a command go on, if any do.
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
            "{} of it, no longer traced, goes on: {}{more}; --follow --pid traces such a one",
            counted(processes.len() as u64, "process", "processes"),
            ids.join(", "),
        )
    })
}

/// The signals that a trace answers.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    child: Signal,
    /// Caught so that it does not end us where files may not grow (`ulimit -f`): writing fails then.
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

/// A trace and what has come of it since the last report.
struct Daemon {
    tracer: Tracer,
    output: Output,
    /// When the report that is being collected began.
    since: Instant,
    schedule: BurstSchedule,
    /// What it had cost by the last report, where that is measured.
    overhead: Overhead,
    /// Where there is a budget.
    governor: Option<Governor>,
    recording: Keeper,
    /// Set once stdout has refused something.
    refused: bool,
    precedence: Precedence,
}

impl Daemon {
    fn start(config: &Config, mut recording: Keeper) -> Result<Self> {
        let mut tracer = Tracer::start(&config.probes)?;
        let probes = tracer.probes();
        let attached = probes.mode().to_string();
        let notes = probes.notes().join("; ");
        recording.begin(&attached, &config.probes.filters);
        let end = match (config.duration, config.command.first()) {
            (None, None) => "... Hit Ctrl-C to end.",
            _ => ".",
        };
        // Before it is said that tracing goes on: from then on the clock may be set.
        let output = Output::new(&config.output, kernel::release(), attached.clone())
            .with_filters(filter_words(&config.probes.filters));
        let output = if config.record.as_deref().is_some_and(files::is_standard) {
            output.on_stderr()
        } else {
            output
        };
        let governor = config
            .max_overhead
            .map(|limit| Governor::new(limit, &mut tracer));
        let overhead = tracer.overhead()?.unwrap_or_default();
        // What comes when it is said that tracing goes on is within the time of the report.
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
            governor,
            recording,
            refused: false,
            precedence: Precedence::default(),
        })
    }

    /// Until a signal, the end of the time, or that of all that is traced.
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
        let mut pause = pause(config.probes.ring_buffer_bytes, limits::cpus());
        if only_some || !filters.cgroups.is_empty() || config.output.events {
            pause = pause.min(PAUSE_IF_AWAITED);
        }
        let mut signalled = false;
        let drain = sleep_until(start + PAUSE_IF_AWAITED);
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
        // The first one begins after a second, in which what is used is still that of the start.
        let mut window = interval_at(start + WINDOW, WINDOW);
        window.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = None;

        // It may have ended before SIGCHLD was waited for.
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
                    self.precedence.set(!is_empty);
                    let pause = match is_empty {
                        false => DRAIN_SOON,
                        // What has been seen of it decides when it ends.
                        true if bursts.is_some() && self.schedule.is_first() => pause.min(PAUSE_IF_AWAITED),
                        true => pause,
                    };
                    drain.as_mut().reset(Instant::now() + pause);
                    self.tracer.probes().follow_cgroups()?;
                    // The trace of a command ends as the command does.
                    if only_some && !self.tracer.probes().any_process()? && command.is_none() {
                        if !config.quiet {
                            drop(status_line.take());
                            say!("All traced processes have ended.");
                        }
                        break;
                    }
                    if let (Some(bursts), None) = (&bursts, &burst)
                        && self.governor.as_ref().is_none_or(Governor::may_watch)
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
                    self.schedule.done(done.context("a burst of watching failed")??);
                    None
                }
                _ = window.tick(), if self.governor.is_some() && step.is_none() => {
                    if let Some(governor) = &mut self.governor {
                        step = governor.window(&mut self.tracer)?;
                    }
                    None
                }
                done = async { step.as_mut().expect("guarded by the condition").await },
                    if step.is_some() =>
                {
                    step = None;
                    if let Some(ended) = done.context("a step of the budget failed")?? {
                        self.schedule.done(ended);
                    }
                    if let Some(governor) = &mut self.governor {
                        governor.arrived(&mut self.tracer)?;
                    }
                    window.reset();
                    None
                }
            };
            // A command decides for itself what a signal is to it; the second one is for us.
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

    /// Takes what has come, and says whether that was all.
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

    /// Goes on where stdout refuses, as a full disk does until there is room again, and says so once: nothing
    /// that is counted or recorded is lost. A reader that went away ends the trace.
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

    /// Detaches, and prints what has come since the last report.
    fn finish(&mut self) -> Result<()> {
        let stopped = self.tracer.stop();
        // Nothing more comes: all that is left is read, however much.
        let drained = self.drain(Duration::MAX);
        let reported = self.report(true);
        stopped.and(drained).and(reported)
    }

    /// What it cost since the last report.
    fn new_overhead(&mut self) -> Result<Option<Overhead>> {
        let Some(now) = self.tracer.overhead()? else {
            return Ok(None);
        };
        let earlier = mem::replace(&mut self.overhead, now.clone());
        Ok(Some(now.since(&earlier)))
    }

    /// Prints what has come since the last report.
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
            mode: mode.to_string(),
            bursts: self.schedule.bursts,
            watched: self.schedule.watched,
            functions,
        };
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let budget = match &mut self.governor {
            Some(governor) => Some(governor.report(&mut self.tracer)?),
            None => None,
        };
        let kernel_side = KernelSide {
            checks,
            accounting: self.tracer.accounting()?,
            // Since the start: the output takes what it had before from it.
            fast: FastConnects::from(self.tracer.probes().maps().fast()),
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

/// Returns the time in which not more than the ring buffer holds can come together.
fn pause(ring_buffer_bytes: u32, cpus: u32) -> Duration {
    let records = f64::from(ring_buffer_bytes) / RECORD_BYTES as f64;
    let fills_in = records / (f64::from(cpus) * f64::from(CALLS_PER_CPU));
    Duration::from_secs_f64(fills_in).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// When `__inet{,6}_check_established` is watched: from the start until there was something to see,
/// and then not without traffic, and not for more than a two-hundredth of the time.
#[derive(Default)]
struct BurstSchedule {
    /// The families that searched for a port since the last burst.
    families: Families,
    /// When the next burst may come; `None` while the first one runs.
    next: Option<Instant>,
    bursts: u64,
    watched: Duration,
}

/// What is to be done about bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The first one, which runs since the start, is to end when it has seen enough.
    EndOfFirst,
    /// Another one, of these families.
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

    /// Returns whether the first one has not ended yet.
    fn is_first(&self) -> bool {
        self.next.is_none()
    }

    /// What to do now.
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
    use crate::aggregate::summary::tests::example;

    #[test]
    fn a_pause_is_as_long_as_the_ring_buffer_holds_what_all_cpus_make() {
        let ms = |mib: u32, cpus| pause(mib << 20, cpus).as_millis();
        assert_eq!([1, 2, 8, 64].map(|cpus| ms(8, cpus)), [200, 154, 38, 10]);
        assert_eq!(
            ms(64, 64),
            38,
            "eight times as large for eight times as many"
        );
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

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_traffic_and_then_for_two_hundred_times_what_the_last_one_took() {
        let burst = |attaching| Burst {
            watched: Duration::from_millis(3),
            attaching: Duration::from_millis(attaching),
        };
        let mut schedule = BurstSchedule::default();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(schedule.due(), None, "no traffic, however long");
        schedule.saw(&example(20_000));
        assert_eq!(schedule.due(), Some(Due::EndOfFirst));

        schedule.done(burst(5_000));
        schedule.done(burst(497));
        schedule.saw(&Connect {
            family: Family::V6,
            ..example(20_000)
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
        schedule.saw(&example(20_000));
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
