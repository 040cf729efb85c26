//! The connections since the last report, and the report that is made of them.

use std::time::{Duration, SystemTime};

use connect_trace_common::counters::TimeWaitCounts;

use super::{
    BelowMinimum, Ends, Exhaustions, Groups, Precision, Summary, Tally, TimeWait,
    by::By,
    exhaustion::Exhaustion,
    report::{KernelSide, Report},
};
use crate::connect::{Connect, ConnectionEvent};

/// The facts about a trace that each of its reports repeats.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// The kernel's release.
    pub kernel: String,
    /// The way in which the programs are attached, in words.
    pub attached: String,
    /// The filters: see [`crate::filter::filter_words`].
    pub filters: Vec<String>,
}

/// The connections since the last report, in bounded memory.
pub struct Collection {
    /// Facts about the trace, for each report.
    pub traced: Traced,
    by: By,
    /// Number of groups in a report.
    top: usize,
    summary: Summary,
    /// Counts that are yet to be added to `summary`.
    kinds: Tally,
    /// Groups of `--by`; `None` for parity, which `summary` has.
    groups: Option<Groups>,
    /// Routes whose ports run out, over all reports.
    exhaustions: Exhaustions,
    /// Handshakes and ends.
    ends: Ends,
    /// Counters of calls below `--min-latency`, as of the last report.
    fast: BelowMinimum,
    /// Counts of candidate ports in TIME_WAIT, as of the last report.
    time_wait: TimeWaitCounts,
}

impl Collection {
    /// Creates an empty collection, whose reports show the `top` largest groups of `by`.
    #[must_use]
    pub fn new(traced: Traced, by: By, top: usize) -> Self {
        Self {
            traced,
            by,
            top,
            summary: Summary::default(),
            kinds: Tally::default(),
            groups: groups(by),
            exhaustions: Exhaustions::default(),
            ends: Ends::default(),
            fast: BelowMinimum::default(),
            time_wait: TimeWaitCounts::default(),
        }
    }

    /// Adds a connection. Returns its route if its ports are seen to run out for the first time.
    pub fn connect(&mut self, connect: &Connect) -> Option<Exhaustion> {
        self.kinds.record(connect, &mut self.summary);
        if let Some(groups) = &mut self.groups {
            groups.record(connect);
        }
        self.exhaustions.record(connect)
    }

    /// Adds an event of a connection that is followed.
    pub fn ended(&mut self, event: &ConnectionEvent) {
        self.ends.record(event);
    }

    /// Returns the report since the last one, and starts a new one. `clock_step_ns` is the time by which the time of day
    /// was set meanwhile.
    pub fn take(
        &mut self,
        at: SystemTime,
        elapsed: Duration,
        clock_step_ns: Option<i128>,
        kernel_side: KernelSide,
    ) -> Report {
        let fast = kernel_side.fast.since(&self.fast);
        self.fast = kernel_side.fast;
        let time_wait = kernel_side.time_wait.map(|time_wait| {
            let earlier = std::mem::replace(&mut self.time_wait, time_wait.counts);
            TimeWait {
                counts: time_wait.counts.since(&earlier),
                ..time_wait
            }
        });
        self.kinds.settle(&mut self.summary);
        let mut summary = std::mem::take(&mut self.summary);
        summary.merge_fast(&fast);
        let next = groups(self.by);
        let (precision, top) = match std::mem::replace(&mut self.groups, next) {
            None => (Precision::Fine, summary.by_parity()),
            Some(mut groups) => {
                if let Some(next) = &mut self.groups {
                    next.keep_pods_of(&mut groups);
                }
                groups.merge_fast(&fast);
                (groups.precision(), groups.top(self.top))
            }
        };
        let Traced {
            kernel,
            attached,
            filters,
        } = self.traced.clone();
        Report {
            kernel,
            attached,
            filters,
            at,
            elapsed,
            summary,
            by: self.by,
            precision,
            top,
            checks: kernel_side.checks,
            time_wait,
            accounting: kernel_side.accounting,
            exhausted: self.exhaustions.take(),
            ends: Some(std::mem::take(&mut self.ends))
                .filter(|ends| kernel_side.ends.is_some() || !ends.is_empty()),
            ends_account: kernel_side.ends,
            clock_step_ns,
            overhead: kernel_side.overhead,
            budget: kernel_side.budget,
            mitigation: kernel_side.mitigation,
            filling: kernel_side.filling,
        }
    }
}

/// Returns the groups; `None` for parity, which the summary has.
fn groups(by: By) -> Option<Groups> {
    (by != By::Parity).then(|| Groups::new(by))
}
