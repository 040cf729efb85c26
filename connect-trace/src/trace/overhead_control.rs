//! Keeps a trace below its overhead limit: measures the overhead, lets `overhead/limiter.rs` decide, and switches the
//! probes to the decided level.

use std::time::Duration;

use anyhow::Result;
use connect_trace_common::Counters;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    connect::CheckMode,
    overhead::{
        core_percent, estimate,
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
    /// True if the run time of the programs is estimated, because the kernel does not measure it.
    estimates: bool,
    /// True if the probes are not detached at [`Level::Detached`].
    stays_attached: bool,
}

impl OverheadControl {
    /// Creates the control for a limit in percent of one core. In a service, warns if the kernel does not measure the run
    /// time of the programs.
    pub(crate) fn new(limit: f64, tracer: &mut Tracer) -> Self {
        let probes = tracer.probes();
        let stays_attached = probes.stay_attached();
        let estimates = stays_attached && !probes.are_measured();
        if estimates {
            log::warn!(
                "--max-overhead {limit}%: the kernel does not measure the run time of the programs, which takes \
                 CAP_SYS_ADMIN at the start or the setting kernel.bpf_stats_enabled = 1; it is estimated as {} ns for each \
                 connect(), and metrics and reports lack it",
                estimate::RECORDED_NS
            );
        }
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
            estimates,
            stays_attached,
        }
    }

    /// Creates the control like [`new`](Self::new), in a trace that has been running without a limit.
    pub(crate) fn begin(limit: f64, tracer: &mut Tracer) -> Self {
        let counters = tracer.probes().maps().counters();
        Self {
            counters,
            ..Self::new(limit, tracer)
        }
    }

    /// Changes the limit.
    pub(crate) fn set_limit(&mut self, limit: f64) {
        self.limiter.set_limit(limit);
    }

    /// Goes back to the full level, before the control is dropped. Not to be called while a level change is under way.
    pub(crate) fn end(&mut self, tracer: &mut Tracer) -> Result<()> {
        self.level_switch.go(self.limiter.level(), Level::Full)?;
        self.report_detached(tracer, Instant::now());
        Ok(())
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
        // A service may gain or lose the kernel's measurement while it runs.
        let estimates = self.stays_attached && !tracer.probes().are_measured();
        if estimates != self.estimates {
            self.estimates = estimates;
            self.window = None;
        }
        let times = match self.estimates {
            true => Some(tracer.estimated_cpu_times()),
            false => tracer.cpu_times()?,
        };
        let Some((programs, own)) = times else {
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
            let limit = self.limiter.limit();
            let announcement = announcement(limit, cost, from, to, self.stays_attached);
            log::warn!("{announcement}");
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
fn announcement(limit: f64, cost: Cost, from: Level, to: Level, stays_attached: bool) -> String {
    let figures = format!(
        "{:.3} % of a core in the last second (programs {:.3}, connect-trace itself {:.3})",
        cost.sum(),
        cost.programs,
        cost.own
    );
    let to = match to {
        Level::Detached if stays_attached => "no call is looked at".to_owned(),
        to => to.to_string(),
    };
    if from == Level::Detached {
        let again = match stays_attached {
            true => "calls are looked at again",
            false => "probes attached again",
        };
        format!("--max-overhead {limit}%: {again}; from now on: {to}")
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
            announcement(1.0, cost, Level::Unwatched, Level::Sampled(8), false),
            "--max-overhead 1%: overhead was 3.250 % of a core in the last second (programs 3.000, \
             connect-trace itself 0.250); from now on: records of 1 connect() in 8"
        );
        let back = announcement(5.0, cost, Level::Sampled(8), Level::Full, false);
        assert!(back.contains("overhead was only 3.250 %"), "{back}");
        let again = announcement(1.0, cost, Level::Detached, Level::Sampled(64), false);
        assert!(
            again.ends_with("attached again; from now on: records of 1 connect() in 64"),
            "{again}"
        );
    }

    #[test]
    fn a_service_does_not_say_that_it_detaches() {
        let cost = Cost {
            programs: 3.0,
            own: 0.25,
        };
        let change = |from, to| announcement(1.0, cost, from, to, true);
        let blind = change(Level::Sampled(64), Level::Detached);
        assert!(
            blind.ends_with("from now on: no call is looked at"),
            "{blind}"
        );
        let again = change(Level::Detached, Level::Sampled(64));
        assert!(again.contains("calls are looked at again; "), "{again}");
    }
}
