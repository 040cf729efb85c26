//! Keeps a trace below its overhead limit: measures the overhead, lets `overhead/limiter.rs` decide, and switches the
//! probes to the decided level.

use std::time::Duration;

use anyhow::Result;
use connect_trace_common::Counters;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    connect::CheckMode,
    overhead::{
        core_percent,
        history::{LevelHistory, LevelHistoryPart, LimitUse},
        limiter::{Cost, Level, Limiter},
    },
    probes::{checks::Burst, level_switch::LevelSwitch},
    trace::tracer::Tracer,
};

/// Length of a measurement, on which one decision is based.
pub(crate) const WINDOW: Duration = Duration::from_secs(1);

/// Keeps a trace within `--max-overhead`.
pub(crate) struct OverheadControl {
    limiter: Limiter,
    level_switch: LevelSwitch,
    start: Instant,
    history: LevelHistory,
    /// Start of the window, and the run time of the programs and the CPU time of this process until then; `None` before
    /// the first window.
    window: Option<(Instant, Duration, Duration)>,
    /// The level change that is under way: from which level, to which, and the overhead that caused it.
    going: Option<(Level, Level, Cost)>,
    /// Time since which the probes are detached, if it has not been added to the account yet.
    detached_since: Option<Instant>,
    /// The kernel's counters at the last report.
    counters: Counters,
}

impl OverheadControl {
    /// Creates the control for a limit in percent of one core.
    pub(crate) fn new(limit: f64, tracer: &mut Tracer) -> Self {
        let probes = tracer.probes();
        let watches = probes.watcher().mode() != CheckMode::Off;
        Self {
            limiter: Limiter::new(limit, watches),
            level_switch: probes.level_switch(),
            start: Instant::now(),
            history: LevelHistory::default(),
            window: None,
            going: None,
            detached_since: None,
            counters: Counters::default(),
        }
    }

    /// Returns the present level, or the one to which a change is under way.
    pub(crate) fn level(&self) -> Level {
        self.limiter.level()
    }

    /// Returns whether candidate checks may be watched: not while a level change is under way.
    pub(crate) fn may_watch(&self) -> bool {
        self.limiter.level() == Level::Full && self.going.is_none()
    }

    /// Ends a window, or begins the first one. Returns a level change that is under way, if one was decided; call
    /// [`Self::arrived`] when it is done.
    pub(crate) fn window(
        &mut self,
        tracer: &mut Tracer,
    ) -> Result<Option<JoinHandle<Result<Option<Burst>>>>> {
        let now = Instant::now();
        let Some((programs, own)) = tracer.cpu_times()? else {
            return Ok(None);
        };
        let before = self.window.replace((now, programs, own));
        let Some((since, programs_before, own_before)) = before else {
            return Ok(None);
        };
        let cost = Cost {
            programs: core_percent(programs.saturating_sub(programs_before), now - since),
            own: core_percent(own.saturating_sub(own_before), now - since),
        };
        let from = self.limiter.level();
        log::debug!(
            "{from}: programs {:.3} % of a core, connect-trace itself {:.3}",
            cost.programs,
            cost.own
        );
        let Some(to) = self.limiter.window(cost) else {
            return Ok(None);
        };
        self.going = Some((from, to, cost));
        if to == Level::Detached {
            self.history.go(now - self.start, to, cost);
            self.detached_since = Some(now);
        }
        let level_switch = self.level_switch.clone();
        Ok(Some(tokio::task::spawn_blocking(move || {
            level_switch.go(from, to)
        })))
    }

    /// Records that a level change is done. Its own cost is in no window.
    pub(crate) fn arrived(&mut self, tracer: &mut Tracer) -> Result<()> {
        if let Some((from, to, cost)) = self.going.take() {
            log::warn!("{}", announcement(self.limiter.limit(), cost, from, to));
            if to != Level::Detached {
                let now = Instant::now();
                self.report_detached(tracer, now);
                self.detached_since = None;
                self.history.go(now - self.start, to, cost);
            }
        }
        self.window = None;
        self.window(tracer).map(|_| ())
    }

    /// Returns the levels and counts since the last report.
    pub(crate) fn report(&mut self, tracer: &mut Tracer) -> Result<LimitUse> {
        let now = Instant::now();
        self.report_detached(tracer, now);
        let counters = tracer.probes().maps().counters();
        let before = std::mem::replace(&mut self.counters, counters);
        let LevelHistoryPart {
            periods,
            left_out,
            unwatched,
            sampled,
            blind,
        } = self.history.take(now - self.start);
        Ok(LimitUse {
            limit: self.limiter.limit(),
            periods,
            left_out,
            unwatched,
            sampled,
            blind,
            entered: counters.entered - before.entered,
            unsampled: counters.unsampled - before.unsampled,
        })
    }

    fn report_detached(&mut self, tracer: &mut Tracer, now: Instant) {
        if let Some(since) = &mut self.detached_since {
            tracer.add_detached(now - *since);
            *since = now;
        }
    }
}

/// Returns the log message for a level change.
fn announcement(limit: f64, cost: Cost, from: Level, to: Level) -> String {
    let figures = format!(
        "{:.3} % of a core in the last second (programs {:.3}, connect-trace itself {:.3})",
        cost.sum(),
        cost.programs,
        cost.own
    );
    if from == Level::Detached {
        format!("--max-overhead {limit}%: probes attached again; from now on: {to}")
    } else if cost.sum() > limit {
        format!("--max-overhead {limit}%: overhead was {figures}; from now on: {to}")
    } else {
        format!("--max-overhead {limit}%: overhead was only {figures}; from now on: {to}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_announced_with_its_figures() {
        let cost = Cost {
            programs: 3.0,
            own: 0.25,
        };
        assert_eq!(
            announcement(1.0, cost, Level::Unwatched, Level::Sampled(8)),
            "--max-overhead 1%: overhead was 3.250 % of a core in the last second (programs 3.000, \
             connect-trace itself 0.250); from now on: records of 1 connect() in 8"
        );
        let back = announcement(5.0, cost, Level::Sampled(8), Level::Full);
        assert!(back.contains("overhead was only 3.250 %"), "{back}");
        let again = announcement(1.0, cost, Level::Detached, Level::Sampled(64));
        assert!(
            again.ends_with("attached again; from now on: records of 1 connect() in 64"),
            "{again}"
        );
    }
}
