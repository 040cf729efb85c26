//! The source of the figures: a trace.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use super::args::TopArgs;
use crate::{
    clock::monotonic_ns,
    connect::{CheckMode, Protocols},
    filter::{Filters, filter_words, filters},
    kernel,
    live::history::{Ended, History},
    metrics::Totals,
    overhead::process_usage::ProcessUsage,
    probes::{MAX_CONNECTIONS, ProbeConfig},
    routes::RouteWatch,
    stats::{Collection, Traced, by::By},
    term::message::say,
    trace::session::{DRAIN_BUDGET, Drained, Session},
};

/// A source of figures.
pub(super) trait Source {
    /// Waits for something that may change the figures of the next interval. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> Result<()>;

    /// Ends an interval. The next one has this length.
    fn end_interval(&mut self, next: Duration) -> Result<()>;

    /// Returns the intervals that have ended.
    fn history(&self) -> &History;
}

/// A trace.
pub(super) struct Trace {
    session: Session,
    totals: Totals,
    collection: Collection,
    history: History,
    /// The routes that fill up, unless they are not asked for.
    routes: Option<RouteWatch>,
    min_latency: Duration,
    /// Start of the interval.
    since: Instant,
    /// True until all processes that are traced have ended.
    has_process: bool,
}

impl Trace {
    /// Attaches the probes. To be called within the runtime.
    ///
    /// # Errors
    /// If a filter names something that does not exist, or tracing cannot start.
    pub(super) fn start(args: &TopArgs) -> Result<Self> {
        let filters = filters(&args.filters)?;
        let config = ProbeConfig {
            attach: args.probes.attach.into(),
            protocols: filters.protocols.unwrap_or(Protocols::TCP),
            checks: CheckMode::Off,
            time_wait: false,
            filters: Filters {
                follow: args.follow,
                ..filters
            },
            ring_buffer_bytes: args.probes.ring_buffer,
            max_in_flight: args.probes.max_in_flight,
            // The cost is on the screen.
            run_stats: true,
            may_sample: args.max_overhead.is_some(),
            service: false,
            phases: false,
            stacks_hertz: None,
            max_connections: args.tells_ports().then_some(MAX_CONNECTIONS),
            mitigation: None,
        };
        let mut session = Session::start(&config, args.max_overhead, false)?;
        let traced = Traced {
            kernel: kernel::release(),
            attached: session.tracer().probes().mode().to_string(),
            filters: filter_words(&config.filters),
        };
        Ok(Self {
            session,
            totals: Totals::default(),
            collection: Collection::new(traced, By::Parity, 1),
            history: History::new(args.interval),
            routes: args.tells_ports().then(|| RouteWatch::new(true)),
            min_latency: config.filters.min_latency.unwrap_or_default(),
            since: Instant::now(),
            has_process: !config.filters.pids.is_empty(),
        })
    }

    /// Detaches the probes.
    ///
    /// # Errors
    /// If a program cannot be detached.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.session.stop()
    }

    /// Counts what is in the ring buffer, and returns whether that was all.
    fn drain(&mut self) -> bool {
        let Self {
            session,
            totals,
            collection,
            routes,
            ..
        } = self;
        let read_ns = monotonic_ns();
        let is_empty = session.drain(DRAIN_BUDGET, |drained| match drained {
            Drained::Connect(connect) => {
                totals.record(connect);
                if let Some(routes) = routes {
                    routes.connect(connect);
                }
                collection.connect(connect);
            }
            Drained::Ended(event) => {
                if let Some(routes) = routes {
                    routes.ended(event);
                }
                collection.ended(event);
            }
        });
        if let Some(routes) = routes
            && is_empty
        {
            routes.look(read_ns, session.coverage());
        }
        is_empty
    }

    /// Returns the connect() calls since the start, with those that have no record.
    fn all_totals(&mut self) -> Totals {
        let probes = self.session.tracer().probes();
        let has_single_pass = probes.layout().socket_range_has_no_parity;
        let fast = probes.maps().fast();
        self.totals.clone().with_fast(&fast, has_single_pass)
    }
}

impl Source for Trace {
    async fn next(&mut self) -> Result<()> {
        self.session.next().await?;
        let is_empty = self.drain();
        self.session.drained(is_empty)?;
        if self.has_process && !self.session.tracer().probes().any_process()? {
            self.has_process = false;
            say!("All traced processes have ended.");
        }
        Ok(())
    }

    fn end_interval(&mut self, next: Duration) -> Result<()> {
        self.drain();
        let mut side = self.session.kernel_side()?;
        let routes = self.routes.as_mut();
        side.filling = routes.map(|routes| routes.report(monotonic_ns()));
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let report = self.collection.take(SystemTime::now(), elapsed, None, side);
        let totals = self.all_totals();
        self.history.add(&Ended {
            report: &report,
            totals: &totals,
            min_latency: self.min_latency,
            next,
            level: self.session.level(),
            own: ProcessUsage::now(),
        });
        Ok(())
    }

    fn history(&self) -> &History {
        &self.history
    }
}
