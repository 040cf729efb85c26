//! A mitigation beside the trace: programs at connect() of a cgroup choose the source of connections, on the routes that
//! the trace names. `routes` decides on which routes, `settings` has the choices of the command line.
//!
//! The trace sees the connections of both arms, and their account says what the mitigation does for them.

pub(crate) mod routes;
pub mod settings;

use connect_trace_common::{MitigationCounters, RouteCounts, RouteKey};
use tokio::time::Instant;

use self::{
    routes::{Change, Routes},
    settings::Settings,
};
use crate::{
    connect::Connect,
    metrics::reading::MitigationReading,
    stats::{
        arms::{Arms, Verdict},
        mitigation::Mitigation,
    },
};

/// A mitigation: its routes and its connections.
pub(crate) struct Mitigator {
    settings: Settings,
    routes: Routes,
    arms: Arms,
    /// Changes of routes that the programs do not know yet.
    changes: Vec<Change>,
    /// Decisions up to the last report.
    reported: MitigationCounters,
    /// Mean time of the programs for a connection on which they act, in nanoseconds.
    acting_ns: f64,
}

impl Mitigator {
    /// Creates a mitigation that knows no route.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            routes: Routes::new(settings.when_above),
            settings,
            arms: Arms::default(),
            changes: Vec::new(),
            reported: MitigationCounters::default(),
            acting_ns: 0.0,
        }
    }

    /// Adds a connection.
    pub(crate) fn saw(&mut self, connect: &Connect) {
        if self.routes.acts_on(connect) {
            let arm = self.settings.arm(connect);
            self.arms.record(arm, connect, self.acting_ns);
        }
        self.changes
            .extend(self.routes.saw(connect, Instant::now()));
    }

    /// Returns the changes of routes since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Looks at what the programs counted and found on the routes. To be called about once per second.
    pub(crate) fn look(
        &mut self,
        counters: &MitigationCounters,
        found: &[(RouteKey, RouteCounts)],
    ) {
        if counters.acted() > 0 {
            self.acting_ns = counters.acting_ns as f64 / counters.acted() as f64;
        }
        let changes = self.routes.look(found, Instant::now());
        self.changes.extend(changes);
    }

    /// Returns the mitigation since the start.
    pub(crate) fn reading(&self, decisions: MitigationCounters) -> MitigationReading {
        MitigationReading {
            decisions,
            routes: self.routes.counts(),
            arms: self.arms.totals(),
            verdict: self.verdict(),
        }
    }

    /// Returns the comparison of the arms; `None` if everything is mitigated.
    fn verdict(&self) -> Option<Verdict> {
        self.settings.compares().then(|| self.arms.verdict())
    }

    /// Returns the mitigation since the last report, and starts a new one.
    pub(crate) fn report(&mut self, counters: MitigationCounters) -> Mitigation {
        let decisions = counters.since(&self.reported);
        self.reported = counters;
        Mitigation {
            settings: self.settings.to_string(),
            decisions,
            routes: self.routes.counts(),
            arms: self.arms.take(),
            verdict: self.verdict(),
        }
    }
}
