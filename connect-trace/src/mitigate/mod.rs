//! A mitigation beside the trace: programs at connect() of a cgroup choose the source of connections, on the routes that
//! the trace names. `routes` decides on which routes, `settings` has the choices of the command line.
//!
//! The trace sees the connections of both arms, and their account says what the mitigation does for them.

pub(crate) mod routes;
pub mod settings;

use anyhow::{Result, bail};
use connect_trace_common::MitigationCounters;
use tokio::time::Instant;

use self::{
    routes::{Change, Routes},
    settings::Settings,
};
use crate::{
    connect::Connect,
    filter::Cgroup,
    metrics::reading::MitigationReading,
    probes::mitigation::Mitigation as Programs,
    stats::{
        arms::{Arms, Verdict},
        mitigation::Mitigation,
    },
    term::printable::printable,
};

/// A mitigation: its routes and its connections.
pub(crate) struct Mitigator {
    settings: Settings,
    /// The cgroups to which the programs are attached.
    cgroups: Vec<Cgroup>,
    routes: Routes,
    arms: Arms,
    /// Changes of routes that the programs do not know yet.
    changes: Vec<Change>,
    /// Decisions up to the last report.
    reported: MitigationCounters,
    /// Decisions up to the last look at the programs.
    looked: MitigationCounters,
}

impl Mitigator {
    /// Creates a mitigation of these cgroups that knows no route.
    pub(crate) fn new(settings: Settings, cgroups: Vec<Cgroup>) -> Self {
        Self {
            routes: Routes::new(settings.when_above),
            settings,
            cgroups,
            arms: Arms::default(),
            changes: Vec::new(),
            reported: MitigationCounters::default(),
            looked: MitigationCounters::default(),
        }
    }

    /// Adds a connection.
    pub(crate) fn saw(&mut self, connect: &Connect) {
        if self.routes.acts_on(connect) {
            let arm = self.settings.arm(connect);
            let acting_ns = self.looked.acting_ns as f64 / self.looked.acted().max(1) as f64;
            self.arms.record(arm, connect, acting_ns);
        }
        self.changes
            .extend(self.routes.saw(connect, Instant::now()));
    }

    /// Tells the programs of the changes of routes since the last call.
    pub(crate) fn tell(&mut self, programs: &mut Programs) {
        for change in self.changes.drain(..) {
            let told = match &change {
                Change::Set(key, state) => programs.set_route(*key, *state),
                Change::Remove(key) => programs.remove_route(key),
            };
            if let Err(error) = told {
                log::error!("a route of the mitigation stays as it was: {error:#}");
            }
        }
    }

    /// Looks at what the programs counted and found on the routes. To be called about once per second.
    ///
    /// # Errors
    /// If a cgroup was removed, because the programs went with it, or the maps cannot be read.
    pub(crate) fn look(&mut self, programs: &mut Programs) -> Result<()> {
        if let Some(gone) = self.cgroups.iter().find(|cgroup| !cgroup.is_there()) {
            bail!(
                "cgroup {} was removed, and with it the programs of the mitigation, also if it was made again: start \
                 connect-trace again, or name the cgroup above it",
                printable(&gone.folder)
            );
        }
        let counters = programs.counters();
        // Each route takes system calls.
        let found = match counters.tested == self.looked.tested {
            true => Vec::new(),
            false => programs.routes()?,
        };
        self.looked = counters;
        let changes = self.routes.look(&found, Instant::now());
        self.changes.extend(changes);
        self.tell(programs);
        Ok(())
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
