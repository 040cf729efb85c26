//! A trace in a test: start, end, and results.

use std::time::Duration;

use anyhow::Result;
use connect_trace::{
    connect::{CheckMode, Connect, ConnectionEvent, Protocols},
    filter::Filters,
    kernel::preemption::preempting_model,
    probes::{ProbeConfig, attach::AttachMode},
    stats::{EndsAccount, accounting::Accounting},
    trace::tracer::Tracer,
};
use connect_trace_common::CheckEstablished;

use crate::{Lacking, symbols};

/// Returns a configuration that traces everything and does not watch `__inet_check_established`.
pub fn config(mode: AttachMode) -> ProbeConfig {
    ProbeConfig {
        attach: Some(mode),
        protocols: Protocols::TCP,
        checks: CheckMode::Off,
        time_wait: false,
        filters: Filters::default(),
        ring_buffer_bytes: 8 << 20,
        max_in_flight: 16_384,
        run_stats: false,
        may_sample: false,
        service: false,
        phases: false,
        stacks_hertz: None,
        max_connections: None,
        mitigation: None,
    }
}

/// A running trace.
pub struct Session {
    pub tracer: Tracer,
    connects: Vec<Connect>,
    events: Vec<ConnectionEvent>,
}

impl Session {
    /// Attaches the probes.
    pub fn start(config: &ProbeConfig) -> Result<Self> {
        Ok(Self {
            tracer: Tracer::start(config)?,
            connects: Vec::new(),
            events: Vec::new(),
        })
    }

    /// Returns the connections so far.
    pub fn connects(&mut self) -> &[Connect] {
        let Self {
            tracer,
            connects,
            events,
        } = self;
        tracer.drain(Duration::MAX, |connect| connects.push(*connect));
        tracer.drain_ends(Duration::MAX, |event| events.push(*event));
        connects
    }

    /// Detaches the probes, and reads the rest of the ring buffer.
    pub fn end(mut self) -> Result<Trace> {
        let running = self.tracer.accounting()?;
        self.tracer.stop()?;
        self.connects();
        Ok(Trace {
            running,
            accounting: self.tracer.accounting()?,
            checks: self.tracer.probes().maps().checks(),
            ends: self.tracer.ends_account()?,
            connects: self.connects,
            events: self.events,
        })
    }
}

/// Fails with [`Lacking`] if simultaneous calls of several threads may go unseen: by fentry on a kernel that preempts,
/// which skips a program on a CPU while a preempted thread is inside it. On such a kernel `--attach auto` chooses
/// kprobes.
pub fn crowd_is_seen(mode: AttachMode) -> Result<()> {
    if mode == AttachMode::Fentry && preempting_model().is_some() {
        return Err(Lacking("fentry that preemption does not make it skip").into());
    }
    Ok(())
}

/// Returns the mode that costs least, for tests that do not depend on it: fentry if the kernel has it.
pub fn cheapest_mode() -> Result<AttachMode> {
    Ok(match symbols::has_fentry()? {
        true => AttachMode::Fentry,
        false => AttachMode::Kprobe,
    })
}

/// A trace that has ended.
pub struct Trace {
    /// All connections, in the order of their ends.
    pub connects: Vec<Connect>,
    /// Their fates, if that was asked for.
    pub events: Vec<ConnectionEvent>,
    /// Accounting of the connections that were followed.
    pub ends: Option<EndsAccount>,
    /// Accounting of the whole run.
    pub accounting: Accounting,
    /// Accounting just before the probes were detached.
    pub running: Accounting,
    /// Statistics of `__inet_check_established` and `__inet6_check_established`.
    pub checks: [CheckEstablished; 2],
}

impl Trace {
    /// Fails unless every call was recorded completely, by every counter of the accounting.
    #[track_caller]
    pub fn assert_complete(&self) {
        let Self {
            accounting,
            running,
            ..
        } = self;
        let shown = format!("{accounting:#?}\nbefore the probes were detached: {running:#?}");
        assert_eq!(running.recursion_misses.unwrap_or(0), 0, "skipped: {shown}");
        assert_eq!(
            accounting.kretprobe_misses.unwrap_or(0),
            0,
            "by the kernel's count: {shown}"
        );
        assert_eq!(accounting.lost(), 0, "lost: {shown}");
        assert!(accounting.complete(), "incomplete: {shown}");
        assert_eq!(accounting.in_flight, 0, "in flight: {shown}");
        assert_eq!(
            accounting.kernel.search_return_missed, 0,
            "without search time: {shown}"
        );
        assert_eq!(accounting.decoded, self.connects.len() as u64, "{shown}");
    }
    /// Fails unless lost calls were counted, and the report would be marked incomplete.
    #[track_caller]
    pub fn assert_lost_are_counted(&self) {
        let Self { accounting, .. } = self;
        assert!(accounting.adds_up(), "{accounting:#?}");
        let skipped = accounting.recursion_misses.unwrap_or(0);
        assert!(
            accounting.kernel.return_missed <= skipped,
            "{accounting:#?}"
        );
        assert_eq!(accounting.complete(), skipped == 0, "{accounting:#?}");
        assert_eq!(
            accounting.decoded,
            self.connects.len() as u64,
            "{accounting:#?}"
        );
    }
}
