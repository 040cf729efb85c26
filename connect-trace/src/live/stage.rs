//! A trace without probes, on connections that were made up or recorded: for tests, and for work on what is shown.

use std::time::{Duration, SystemTime};

use super::history::{Ended, History};
use crate::{
    connect::Connect,
    metrics::Totals,
    overhead::{limiter::Level, process_usage::ProcessUsage},
    stats::{Collection, Traced, by::By, report::KernelSide},
};

/// Calls below have no record.
const MIN_LATENCY: Duration = Duration::from_micros(100);

/// The history of a trace without probes, and what it is made from.
pub(crate) struct Stage {
    pub(crate) history: History,
    pub(crate) totals: Totals,
    pub(crate) side: KernelSide,
    /// End of the last interval.
    pub(crate) at: SystemTime,
    /// The resources that each interval says this process has used; `None` to read them.
    pub(crate) own: Option<ProcessUsage>,
    collection: Collection,
}

impl Stage {
    pub(crate) fn new(interval: Duration) -> Self {
        let traced = Traced {
            kernel: "6.12.0".to_owned(),
            attached: "rehearsal".to_owned(),
            filters: Vec::new(),
        };
        Self {
            history: History::new(interval),
            totals: Totals::default(),
            side: KernelSide::default(),
            at: SystemTime::now(),
            own: None,
            collection: Collection::new(traced, By::Parity, 1),
        }
    }

    /// Adds an interval with these connections, as the programs in the kernel would tell of them.
    pub(crate) fn add(&mut self, connects: &[Connect]) {
        let accounting = &mut self.side.accounting;
        for connect in connects {
            self.totals.record(connect);
            accounting.kernel.entered += 1;
            if connect.errno == 0 && Duration::from_nanos(connect.connect_ns) < MIN_LATENCY {
                accounting.kernel.fast += 1;
                self.side.fast.record(connect);
            } else {
                accounting.kernel.reported += 1;
                accounting.decoded += 1;
                self.collection.connect(connect);
            }
        }
        let interval = self.history.interval();
        self.at += interval;
        let side = self.side.clone();
        let report = self.collection.take(self.at, interval, None, side);
        self.history.add(&Ended {
            report: &report,
            totals: &self.totals,
            min_latency: MIN_LATENCY,
            next: interval,
            level: Level::Full,
            own: self.own.unwrap_or_else(ProcessUsage::now),
        });
    }
}
