//! A running trace: the probes, their bursts of watching candidate checks, and the overhead limit. Its callers print,
//! record or export the connections.

use std::{mem, pin::Pin, time::Duration};

use anyhow::{Context as _, Result};
use connect_trace_common::{ConnectRecord, EndRecord};
use tokio::{
    task::{JoinError, JoinHandle},
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep_until},
};

use crate::{
    connect::{Connect, ConnectionEvent, TimeWaitSettings},
    kernel::{limits, prototypes::CHECKS},
    overhead::{Overhead, limiter::Level},
    probes::{
        ProbeConfig,
        checks::{Burst, Bursts},
    },
    routes::Coverage,
    stats::{
        BelowMinimum, TimeWait,
        report::{Checks, KernelSide},
    },
    trace::{
        bursts::{BurstSchedule, Due},
        overhead_control::{OverheadControl, WINDOW},
        priority::Priority,
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
/// Longest time that one reading may take before other work is looked at.
pub(crate) const DRAIN_BUDGET: Duration = Duration::from_millis(200);
/// Time until the next reading, if the last one did not empty the buffer.
const DRAIN_SOON: Duration = Duration::from_millis(1);

/// An entry of a ring buffer.
#[derive(Clone, Copy)]
pub(crate) enum Drained<'a> {
    /// A connect() that has returned.
    Connect(&'a Connect),
    /// An event of a connection that is followed, which may come before its connect().
    Ended(&'a ConnectionEvent),
}

/// A running trace.
pub(crate) struct Session {
    tracer: Tracer,
    schedule: BurstSchedule,
    bursts: Option<Bursts>,
    /// The burst that is under way.
    burst: Option<JoinHandle<Result<Burst>>>,
    /// Set if there is an overhead limit.
    overhead_control: Option<OverheadControl>,
    /// The change of level that is under way.
    step: Option<JoinHandle<Result<Option<Burst>>>>,
    window: Interval,
    /// Overhead until the last report; `None` if it was not measured then.
    overhead: Option<Overhead>,
    priority: Priority,
    pause: Duration,
    drain: Pin<Box<Sleep>>,
}

impl Session {
    /// Attaches the probes. `is_prompt` says that somebody waits for each event. To be called within the runtime.
    ///
    /// # Errors
    /// The same as for [`Tracer::start`].
    pub(crate) fn start(
        config: &ProbeConfig,
        max_overhead: Option<f64>,
        is_prompt: bool,
    ) -> Result<Self> {
        let mut tracer = Tracer::start(config)?;
        let overhead_control = max_overhead.map(|limit| OverheadControl::new(limit, &mut tracer));
        let overhead = tracer.overhead()?;
        let bytes = match config.max_connections {
            Some(_) => END_BYTES,
            None => RECORD_BYTES,
        };
        let pause = if is_prompt {
            SHORTEST_PAUSE
        } else {
            pause(config.ring_buffer_bytes, bytes, limits::cpus())
        };
        let start = Instant::now();
        // The first window begins after a second, during which CPU time is still that of the start.
        let mut window = interval_at(start + WINDOW, WINDOW);
        window.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            bursts: tracer.probes().watcher().bursts(),
            tracer,
            schedule: BurstSchedule::default(),
            burst: None,
            overhead_control,
            step: None,
            window,
            overhead,
            priority: Priority::default(),
            pause,
            drain: Box::pin(sleep_until(start + SHORTEST_PAUSE)),
        })
    }

    /// Returns the tracer.
    pub(crate) fn tracer(&mut self) -> &mut Tracer {
        &mut self.tracer
    }

    /// Returns the level that keeps the overhead limit; `Full` without a limit.
    pub(crate) fn level(&self) -> Level {
        let control = self.overhead_control.as_ref();
        control.map_or(Level::Full, OverheadControl::level)
    }

    /// Waits until the ring buffer is to be read: call [`drain`](Self::drain), then [`drained`](Self::drained). Keeps
    /// bursts and the overhead limit going meanwhile. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// If a burst or a change of level fails.
    pub(crate) async fn next(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                () = &mut self.drain => return Ok(()),
                done = async { self.burst.as_mut().expect("guarded by the condition").await },
                    if self.burst.is_some() =>
                {
                    self.burst = None;
                    self.schedule.done(done.context("a burst of watching port checks failed")??);
                }
                _ = self.window.tick(), if self.overhead_control.is_some() && self.step.is_none() => {
                    if let Some(overhead_control) = &mut self.overhead_control {
                        self.step = overhead_control.window(&mut self.tracer)?;
                    }
                }
                done = async { self.step.as_mut().expect("guarded by the condition").await },
                    if self.step.is_some() =>
                {
                    self.step = None;
                    self.arrived(done)?;
                }
            }
        }
    }

    /// Takes the end of a change of level.
    fn arrived(&mut self, done: Result<Result<Option<Burst>>, JoinError>) -> Result<()> {
        if let Some(ended) = done.context("a change to keep --max-overhead failed")?? {
            self.schedule.done(ended);
        }
        if let Some(overhead_control) = &mut self.overhead_control {
            overhead_control.arrived(&mut self.tracer)?;
        }
        self.window.reset();
        Ok(())
    }

    /// Sets, changes or removes the overhead limit of a service.
    ///
    /// # Errors
    /// If a change of level that is under way fails, or the kernel's counts cannot be read.
    pub(crate) async fn set_max_overhead(&mut self, limit: Option<f64>) -> Result<()> {
        if let Some(step) = self.step.take() {
            let done = step.await;
            self.arrived(done)?;
        }
        match (limit, &mut self.overhead_control) {
            (Some(limit), Some(overhead_control)) => overhead_control.set_limit(limit),
            (Some(limit), none) => {
                self.tracer.probes().measure_runs()?;
                *none = Some(OverheadControl::begin(limit, &mut self.tracer));
                self.window.reset();
            }
            (None, Some(overhead_control)) => {
                overhead_control.end(&mut self.tracer)?;
                self.overhead_control = None;
                self.tracer.probes().pause_measuring();
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// Passes on what is in the ring buffers, and stops after `budget`. Returns whether that was all.
    pub(crate) fn drain(&mut self, budget: Duration, mut each: impl FnMut(Drained<'_>)) -> bool {
        let schedule = &mut self.schedule;
        let is_empty = self.tracer.drain(budget, |connect| {
            schedule.saw(connect);
            each(Drained::Connect(connect));
        });
        let no_ends = self
            .tracer
            .drain_ends(budget, |event| each(Drained::Ended(event)));
        is_empty && no_ends
    }

    /// Plans the next reading, after one that did or did not empty the buffers, and begins a burst that is due.
    ///
    /// # Errors
    /// If a cgroup of the filters cannot be followed.
    pub(crate) fn drained(&mut self, is_empty: bool) -> Result<()> {
        self.priority.set(!is_empty);
        let pause = match is_empty {
            false => DRAIN_SOON,
            // The number of candidate checks seen decides when the first burst ends.
            true if self.bursts.is_some() && self.schedule.is_first() => SHORTEST_PAUSE,
            true => self.pause,
        };
        self.drain.as_mut().reset(Instant::now() + pause);
        self.tracer.probes().follow_cgroups()?;
        if let (Some(bursts), None) = (&self.bursts, &self.burst)
            && self
                .overhead_control
                .as_ref()
                .is_none_or(OverheadControl::may_watch)
            && let Some(due) = self.schedule.due()
        {
            let bursts = bursts.clone();
            self.burst = Some(tokio::task::spawn_blocking(move || match due {
                Due::EndOfFirst => bursts.end_first(),
                Due::Burst(families) => bursts.run(families),
            }));
        }
        Ok(())
    }

    /// Detaches the probes. What is in the ring buffers can still be drained.
    ///
    /// # Errors
    /// The same as for [`Tracer::stop`].
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.tracer.stop()
    }

    /// Returns what the records do not tell of.
    pub(crate) fn coverage(&mut self) -> Coverage {
        let is_reduced = self.level() != Level::Full;
        let probes = self.tracer.probes();
        let filters = probes.filters();
        let has_parts = !filters.pids.is_empty()
            || !filters.cgroups.is_empty()
            || !filters.uids.is_empty()
            || !filters.comms.is_empty();
        let is_filtered = has_parts
            || !filters.netns.is_empty()
            || !filters.dports.is_empty()
            || !filters.daddrs.is_empty()
            || filters.version.is_some();
        let (calls, ends) = (probes.maps().counters(), probes.maps().ends());
        // A kernel that cannot tell how often it skipped a program does not skip it.
        let skipped = probes.ends().and_then(|ends| ends.skipped().ok().flatten());
        Coverage {
            is_filtered,
            splits_routes: has_parts,
            is_reduced,
            missed: calls.ring_full
                + calls.in_flight_full
                + calls.return_missed
                + calls.unsampled
                + ends.map_full
                + ends.replaced
                + ends.ended_lost
                + skipped.unwrap_or(0),
        }
    }

    /// Returns what the kernel's side has counted since the start, for a report or a recording.
    ///
    /// # Errors
    /// If a map or the kernel's counters cannot be read.
    pub(crate) fn counted(&mut self) -> Result<KernelSide> {
        let probes = self.tracer.probes();
        let functions = CHECKS
            .iter()
            .map(|function| function.name)
            .zip(probes.maps().checks())
            .collect();
        let checks = Checks {
            mode: probes.watcher().mode(),
            bursts: self.schedule.bursts,
            watched: self.schedule.watched,
            functions,
        };
        Ok(KernelSide {
            checks,
            accounting: self.tracer.accounting()?,
            // The sum since the start: a collection subtracts the sum at the last report.
            fast: BelowMinimum::from(&self.tracer.probes().maps().fast()),
            ends: self.tracer.ends_account()?,
            ..KernelSide::default()
        })
    }

    /// Returns the kernel's side of a report since the last one.
    ///
    /// # Errors
    /// If a map or the kernel's counters cannot be read.
    pub(crate) fn kernel_side(&mut self) -> Result<KernelSide> {
        let budget = match &mut self.overhead_control {
            Some(overhead_control) => Some(overhead_control.report(&mut self.tracer)?),
            None => None,
        };
        Ok(KernelSide {
            time_wait: self.time_wait()?,
            overhead: self.new_overhead()?,
            budget,
            ..self.counted()?
        })
    }

    /// Returns the overhead since the last report.
    fn new_overhead(&mut self) -> Result<Option<Overhead>> {
        let now = self.tracer.overhead()?;
        let earlier = mem::replace(&mut self.overhead, now.clone());
        Ok(now.zip(earlier).map(|(now, earlier)| now.since(&earlier)))
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
}
