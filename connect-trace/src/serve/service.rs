//! The service: a session whose connections are counted for metrics and for the report of each interval.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep},
};

use super::{
    args::ServeArgs,
    config,
    history::{Ended, History},
    listen::Listeners,
    manager::Manager,
    page,
    printer::Printer,
    reload::Reload,
    request::{Answer, Request, Wanted},
};
use crate::{
    connect::{CheckMode, Protocols},
    filter::{Cgroup, Filters, filter_words},
    kernel::{self, sysctls},
    metrics::{
        Reading, Totals, exposition,
        reading::{LocalPorts, Process, Routes},
    },
    mitigate::{Mitigator, routes::Change},
    overhead::process_usage::ProcessUsage,
    probes::{ProbeConfig, Probes},
    recording::Recorder,
    report::json,
    stats::{Collection, Traced, mitigation::Mitigation, report::Report},
    term::{message::say, printable::printable},
    trace::{
        session::{DRAIN_BUDGET, Drained, Session},
        signals::Signals,
    },
};

/// Minimum latency of calls that get a record, unless the filters have one.
const MIN_LATENCY: Duration = Duration::from_micros(100);
/// Pause between two looks at the decisions of a mitigation.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time after which the ring buffer must have been emptied: the service is then no longer healthy.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// The service.
pub(super) struct Service {
    pub(super) session: Session,
    totals: Totals,
    pub(super) collection: Collection,
    pub(super) recording: Recorder,
    routes: Routes,
    /// The options in force.
    pub(super) args: ServeArgs,
    /// Start of the interval.
    since: Instant,
    /// The JSON of the last interval; empty before its end.
    report: Vec<u8>,
    /// The last quarter of an hour, for the page.
    pub(super) history: History,
    /// Time of the last reading that emptied the ring buffer.
    drained_at: Option<Instant>,
    started: SystemTime,
    /// Set if connections are mitigated.
    mitigator: Option<Mitigator>,
    /// The cgroups whose connections are mitigated.
    mitigated: Vec<Cgroup>,
    /// The reports on stdout, if they are printed.
    printer: Option<Printer>,
}

impl Service {
    /// Attaches the probes.
    ///
    /// # Errors
    /// If a filter names something that does not exist, or tracing cannot start.
    pub(super) fn start(args: &ServeArgs) -> Result<Self> {
        let filters = wanted(args)?;
        let mitigates = args.mitigates.as_ref();
        let mitigation = mitigates.map(|mitigates| mitigates.settings.config(&filters));
        let config = ProbeConfig {
            attach: args.probes.attach.into(),
            protocols: filters.protocols.unwrap_or(Protocols::TCP),
            // A burst attaches programs, for which a service has no privileges left.
            checks: CheckMode::Off,
            time_wait: false,
            filters,
            ring_buffer_bytes: args.probes.ring_buffer,
            max_in_flight: args.probes.max_in_flight,
            run_stats: args.max_overhead.is_some() || sysctls::counts_runs(),
            may_sample: true,
            service: true,
            phases: false,
            stacks_hertz: None,
            max_connections: None,
            mitigation,
        };
        let mut recording = Recorder::create(&args.recording)?;
        // A route that is named late finds more ports taken.
        let is_prompt = mitigates.is_some();
        let mut session = Session::start(&config, args.max_overhead, is_prompt)?;
        let probes = session.tracer().probes();
        let traced = Traced {
            kernel: kernel::release(),
            attached: probes.mode().to_string(),
            filters: filter_words(&config.filters),
        };
        recording.begin(&traced.attached, &config.filters);
        let mitigated = match mitigates {
            Some(_) => config.filters.cgroups.clone(),
            None => Vec::new(),
        };
        if !args.quiet {
            say!(
                "Attached by {}: {}.",
                traced.attached,
                probes.notes().join("; ")
            );
        }
        Ok(Self {
            session,
            totals: Totals::default(),
            collection: Collection::new(traced, args.by, args.top),
            recording,
            routes: Routes::default(),
            args: args.clone(),
            since: Instant::now(),
            report: Vec::new(),
            history: History::new(args.interval),
            drained_at: None,
            started: SystemTime::now(),
            mitigator: args
                .mitigates
                .as_ref()
                .map(|mitigates| Mitigator::new(mitigates.settings.clone())),
            mitigated,
            printer: args
                .mitigates
                .as_ref()
                .and_then(|mitigates| mitigates.printed)
                .map(Printer::new),
        })
    }

    /// Returns the probes.
    pub(super) fn probes(&mut self) -> &Probes {
        self.session.tracer().probes()
    }

    /// Returns how it traces and where it listens, in one line.
    pub(super) fn status(&self, listeners: &Listeners) -> String {
        let listeners: Vec<String> = listeners.all.iter().map(ToString::to_string).collect();
        format!(
            "Tracing by {}, serving on {}",
            self.collection.traced.attached,
            listeners.join(", ")
        )
    }

    /// Serves until a signal.
    ///
    /// # Errors
    /// If the kernel refuses something that the trace needs.
    pub(super) async fn run(
        &mut self,
        mut signals: Signals,
        mut requests: Receiver<Request>,
        manager: &mut Manager,
    ) -> Result<()> {
        let mut report = ticks(self.args.interval);
        let mut reload = Reload::default();
        let mut look = ticks(LOOK_EVERY);
        let mitigates = self.args.mitigates.as_ref();
        let limit = mitigates.and_then(|mitigates| mitigates.duration);
        let end = sleep(limit.unwrap_or(Duration::from_secs(u32::MAX.into())));
        tokio::pin!(end);
        // Read once before the first request, so that the service is healthy from its first answer on.
        self.drain(DRAIN_BUDGET);
        loop {
            tokio::select! {
                biased;
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.terminate.recv() => return Ok(()),
                () = &mut end => return Ok(()),
                due = self.session.next() => {
                    due?;
                    let is_empty = self.drain(DRAIN_BUDGET);
                    self.recording.tick(|| self.session.counted())?;
                    self.session.drained(is_empty)?;
                    let probes = self.session.tracer().probes();
                    if !probes.filters().pids.is_empty() {
                        // Forgets processes whose ends the kernel did not tell.
                        probes.any_process()?;
                    }
                    manager.drained(is_empty);
                }
                _ = look.tick(), if self.mitigator.is_some() => self.look_at_routes()?,
                _ = report.tick() => {
                    if let Err(error) = self.end_interval() {
                        log::error!("no report of the last interval: {error:#}");
                    }
                }
                read = reload.next(&mut signals.hangup, &self.args) => {
                    // Its options come from the command line alone.
                    if self.args.mitigates.is_some() {
                        return Ok(());
                    }
                    Manager::reloads();
                    let is_changed = self.reload(read).await?;
                    manager.reloaded();
                    if is_changed {
                        report = ticks(self.args.interval);
                    }
                }
                Some(request) = requests.recv() => self.answer(request),
            }
        }
    }

    /// Detaches the probes, and ends the recording.
    ///
    /// # Errors
    /// If a program cannot be detached.
    pub(super) fn finish(&mut self) -> Result<()> {
        Manager::ends();
        let stopped = self.session.stop();
        self.drain(Duration::MAX);
        if self.printer.is_some() {
            self.end_interval()?;
        }
        let counted = self.session.counted()?;
        self.recording.finish(&counted);
        stopped
    }

    /// Processes what is in the ring buffer, and returns whether that was all.
    fn drain(&mut self, budget: Duration) -> bool {
        let Self {
            session,
            totals,
            collection,
            recording,
            routes,
            mitigator,
            ..
        } = self;
        let is_empty = session.drain(budget, |drained| match drained {
            Drained::Connect(connect) => {
                totals.record(connect);
                if let Some(mitigator) = mitigator {
                    mitigator.saw(connect);
                }
                recording.connect(connect);
                if let Some(found) = collection.connect(connect) {
                    log::warn!("{found}");
                    routes.warnings += 1;
                }
            }
            Drained::Ended(event) => {
                recording.ended(event);
                collection.ended(event);
            }
        });
        if is_empty {
            self.drained_at = Some(Instant::now());
        }
        self.name_routes();
        is_empty
    }

    /// Tells the programs of a mitigation of changes of its routes.
    fn name_routes(&mut self) {
        let Some(mitigator) = &mut self.mitigator else {
            return;
        };
        let changes = mitigator.changes();
        let Some(mitigation) = self.session.tracer().probes().mitigation() else {
            return;
        };
        for change in changes {
            let changed = match &change {
                Change::Set(key, state) => mitigation.set_route(*key, *state),
                Change::Remove(key) => mitigation.remove_route(key),
            };
            if let Err(error) = changed {
                log::error!("a route of the mitigation stays as it was: {error:#}");
            }
        }
    }

    /// Looks at the decisions of a mitigation.
    ///
    /// # Errors
    /// If a cgroup was removed: its programs went with it.
    fn look_at_routes(&mut self) -> Result<()> {
        let probes = self.session.tracer().probes();
        if let Some(gone) = self.mitigated.iter().find(|cgroup| !cgroup.is_there()) {
            bail!(
                "cgroup {} was removed, and with it the programs of the mitigation, also if it was made again: start \
                 connect-trace again, or name the cgroup above it",
                printable(&gone.folder)
            );
        }
        if let (Some(mitigator), Some(mitigation)) = (&mut self.mitigator, probes.mitigation()) {
            let routes = mitigation.routes()?.into_iter();
            let found: Vec<_> = routes.map(|(key, _, counts)| (key, counts)).collect();
            mitigator.look(&mitigation.counters(), &found);
        }
        self.name_routes();
        Ok(())
    }

    /// Returns the mitigation since the last report, if there is one.
    fn mitigation(&mut self) -> Option<Mitigation> {
        let counters = self.session.tracer().probes().mitigation()?.counters();
        Some(self.mitigator.as_mut()?.report(counters))
    }

    /// Makes the report of the interval, and begins the next one.
    pub(super) fn end_interval(&mut self) -> Result<()> {
        self.drain(DRAIN_BUDGET);
        let mut kernel_side = self.session.kernel_side()?;
        kernel_side.mitigation = self.mitigation();
        let elapsed = self.since.elapsed();
        self.since = Instant::now();
        let report = self
            .collection
            .take(SystemTime::now(), elapsed, None, kernel_side);
        self.routes
            .see(&report.exhausted, self.args.metrics_routes.into());
        self.report = line(&report)?;
        if let Some(printer) = &mut self.printer {
            printer.print(&report, &self.report);
        }
        let totals = self.totals();
        let filters = self.session.tracer().probes().filters();
        let min_latency = filters.min_latency.unwrap_or_default();
        self.history.add(&Ended {
            report: &report,
            totals: &totals,
            min_latency,
            next: self.args.interval,
            level: self.session.level(),
            own: ProcessUsage::now(),
        });
        Ok(())
    }

    /// Returns the connect() calls since the start, with those that have no record.
    fn totals(&mut self) -> Totals {
        let probes = self.session.tracer().probes();
        let has_single_pass = probes.layout().socket_range_has_no_parity;
        let fast = probes.maps().fast();
        self.totals.clone().with_fast(&fast, has_single_pass)
    }

    /// Answers a request. A reading that fails, such as one without a free descriptor, fails for this client alone.
    fn answer(&mut self, request: Request) {
        let answer = self.page(request.wanted).unwrap_or_else(|error| {
            log::error!("no answer to a request: {error:#}");
            Answer::text(500, &format!("{error:#}"))
        });
        // The client may have gone.
        let _ = request.answer.send(answer);
    }

    /// Returns the page that is wanted.
    fn page(&mut self, wanted: Wanted) -> Result<Answer> {
        Ok(match wanted {
            Wanted::Page { nonce } => page::answer(&self.history, nonce),
            Wanted::Metrics(format) => {
                self.drain(DRAIN_BUDGET);
                Answer {
                    status: 200,
                    content_type: format.content_type(),
                    body: exposition(self.reading()?, format),
                }
            }
            Wanted::Report if self.report.is_empty() => {
                Answer::text(503, "the first interval has not ended")
            }
            Wanted::Report => Answer {
                status: 200,
                content_type: "application/json",
                body: self.report.clone(),
            },
            Wanted::Health | Wanted::Readiness => match self.drained_at {
                None => Answer::text(503, "the ring buffer has not been read"),
                Some(at) if at.elapsed() > DRAINED_WITHIN => Answer::text(
                    503,
                    &format!(
                        "the ring buffer was last emptied {} s ago",
                        at.elapsed().as_secs()
                    ),
                ),
                Some(_) => Answer::text(200, "ok"),
            },
        })
    }

    fn reading(&mut self) -> Result<Reading> {
        let level = self.session.level();
        let totals = self.totals();
        let tracer = self.session.tracer();
        let mitigation = tracer.probes().mitigation();
        let decisions = mitigation.map(|mitigation| mitigation.counters());
        let programs = tracer.probes().runs()?;
        let accounting = tracer.accounting()?;
        Ok(Reading {
            totals,
            accounting,
            routes: self.routes.clone(),
            local_ports: LocalPorts::of_this_namespace(),
            programs: programs.unwrap_or_default(),
            mitigation: self
                .mitigator
                .as_ref()
                .zip(decisions)
                .map(|(mitigator, decisions)| mitigator.reading(decisions)),
            level,
            process: Process::now(self.started),
            kernel: self.collection.traced.kernel.clone(),
            attached: self.collection.traced.attached.clone(),
        })
    }
}

/// Returns the filters of these options, with the minimum latency of a service.
///
/// # Errors
/// If a filter names something that does not exist.
pub(super) fn wanted(args: &ServeArgs) -> Result<Filters> {
    let given = config::resolve(args)?;
    Ok(Filters {
        min_latency: Some(given.min_latency.unwrap_or(MIN_LATENCY)),
        ..given
    })
}

/// Returns the ends of intervals, the first of which begins now.
fn ticks(interval: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Returns the JSON of a report.
fn line(report: &Report) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    json::write_report(&mut line, report)?;
    Ok(line)
}
