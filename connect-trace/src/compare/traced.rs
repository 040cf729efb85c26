//! A trace of the runs, which shows how many candidate ports their searches scanned.

use std::{
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::Watcher;
use crate::{
    connect::{CheckMode, Connect, Protocols},
    filter::Filters,
    load::{Done, plan::Plan},
    probes::{MAX_IN_FLIGHT, ProbeConfig, RING_BUFFER_BYTES},
    trace::tracer::Tracer,
};

/// Interval between two looks at the ring buffer, as in a trace.
const DRAIN_EVERY: Duration = Duration::from_millis(50);

/// Maximum time for one look; nothing else has to wait meanwhile.
const DRAIN_BUDGET: Duration = Duration::from_secs(1);

/// Traces the connections of the processes that this one starts.
pub(crate) struct Traced {
    tracer: Tracer,
}

impl Traced {
    /// Attaches the probes.
    ///
    /// # Errors
    /// If the probes cannot be attached: see [`Tracer::start`].
    pub(crate) fn start() -> Result<Self> {
        let filters = Filters {
            pids: vec![process::id()],
            follow: true,
            ..Filters::default()
        };
        let tracer = Tracer::start(&ProbeConfig {
            attach: None,
            checks: CheckMode::Off,
            protocols: Protocols::TCP,
            filters,
            ring_buffer_bytes: RING_BUFFER_BYTES,
            max_in_flight: MAX_IN_FLIGHT,
            time_wait: false,
            run_stats: false,
            may_sample: false,
            service: false,
            phases: false,
            stacks_hertz: None,
            max_connections: None,
            mitigation: None,
        })?;
        Ok(Self { tracer })
    }

    /// Describes the method, in words that follow "measured", with the account of all runs.
    ///
    /// # Errors
    /// If the account cannot be read.
    pub(crate) fn how(&mut self) -> Result<String> {
        let mode = self.tracer.probes().mode();
        let accounting = self.tracer.accounting()?;
        let (lost, entered) = (accounting.lost(), accounting.kernel.entered);
        let incomplete = if accounting.complete() {
            ""
        } else {
            ", INCOMPLETE"
        };
        Ok(format!(
            "traced by {mode}, {lost} of {entered} connect() calls lost{incomplete}"
        ))
    }

    /// Calls `run`, and passes every connection that is made meanwhile to `each`, which runs in another thread.
    pub(crate) fn during<T>(
        &mut self,
        each: impl FnMut(&Connect) + Send,
        run: impl FnOnce() -> T,
    ) -> T {
        let ended = AtomicBool::new(false);
        let tracer = &mut self.tracer;
        thread::scope(|scope| {
            // A thread that panics prints its message.
            scope.spawn(|| drain(tracer, &ended, each));
            let _ending = Ending(&ended);
            run()
        })
    }
}

impl Watcher for Traced {
    fn how(&mut self) -> Result<String> {
        Self::how(self)
    }

    fn watch(
        &mut self,
        _: &Plan,
        run: &mut dyn FnMut() -> Result<Done>,
    ) -> Result<(Done, Option<f64>)> {
        let mut mean = Mean::default();
        let done = self.during(|connect| mean.add(connect), run)?;
        Ok((done, mean.get()))
    }
}

/// Reads the connections from the ring buffer until the run has ended and the buffer is empty.
fn drain(tracer: &mut Tracer, ended: &AtomicBool, mut each: impl FnMut(&Connect)) {
    loop {
        let last = ended.load(Ordering::Acquire);
        tracer.drain(DRAIN_BUDGET, &mut each);
        if last {
            return;
        }
        thread::sleep(DRAIN_EVERY);
    }
}

/// Marks the run as ended when it is dropped, even after a panic.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Mean number of candidate ports of each search.
#[derive(Default)]
struct Mean {
    sum: u64,
    count: u64,
}

impl Mean {
    fn add(&mut self, connect: &Connect) {
        if let Some(scanned) = connect.scanned {
            self.sum += u64::from(scanned);
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }
}
