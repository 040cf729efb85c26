//! The service: a session whose connections are counted for metrics and for the report of each interval.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep},
};

use super::{
    args::ServeArgs,
    config,
    listen::Listeners,
    manager::Manager,
    page,
    printer::Printer,
    reload::Reload,
    request::{Answer, Request, Wanted},
};
use crate::{
    clock::monotonic_ns,
    connect::{CheckMode, Protocols},
    filter::{Filters, filter_words},
    kernel::{self, sysctls},
    live::history::{Ended, History},
    metrics::{
        Reading, Totals, exposition,
        reading::{LocalPorts, Process, Routes},
    },
    mitigate::Mitigator,
    overhead::process_usage::ProcessUsage,
    probes::{MAX_CONNECTIONS, ProbeConfig, Probes, mitigation::Mitigation as Programs},
    recording::Recorder,
    report::json,
    routes::RouteWatch,
    stats::{Collection, Traced, filling::Filling, mitigation::Mitigation, report::Report},
    term::message::say,
    trace::{
        session::{DRAIN_BUDGET, Drained, Session},
        signals::Signals,
    },
};

/// Minimum latency of calls that get a record, unless the filters have one.
const MIN_LATENCY: Duration = Duration::from_micros(100);
/// Pause between two looks at the programs of a mitigation.
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
    /// The routes that fill up, with `--ports`.
    watch: Option<RouteWatch>,
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
            max_connections: args.ports.then_some(MAX_CONNECTIONS),
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
            mitigator: mitigates.map(|mitigates| {
                Mitigator::new(mitigates.settings.clone(), config.filters.cgroups)
            }),
            // The privileges to enter other network namespaces are given up.
            watch: args.ports.then(|| RouteWatch::new(false)),
            printer: mitigates
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
                    self.record()?;
                    self.session.drained(is_empty)?;
                    let probes = self.session.tracer().probes();
                    if !probes.filters().pids.is_empty() {
                        // Forgets processes whose ends the kernel did not tell.
                        probes.any_process()?;
                    }
                    manager.drained(is_empty);
                }
                _ = look.tick(), if self.mitigator.is_some() => {
                    if let Some((mitigator, programs)) = self.mitigator() {
                        mitigator.look(programs)?;
                    }
                }
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
        self.record()?;
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
            watch,
            ..
        } = self;
        let read_ns = monotonic_ns();
        let is_empty = session.drain(budget, |drained| match drained {
            Drained::Connect(connect) => {
                totals.record(connect);
                if let Some(mitigator) = mitigator {
                    mitigator.saw(connect);
                }
                if let Some(watch) = watch {
                    watch.connect(connect);
                }
                recording.connect(connect, || watch.as_ref()?.percent_in_use(connect));
                if let Some(found) = collection.connect(connect) {
                    log::warn!("{found}");
                    routes.warnings += 1;
                }
            }
            Drained::Ended(event) => {
                recording.ended(event);
                collection.ended(event);
                if let Some(watch) = watch {
                    watch.ended(event);
                }
            }
        });
        if is_empty {
            self.drained_at = Some(Instant::now());
            if let Some(watch) = watch {
                watch.look(read_ns, session.coverage());
            }
        }
        if let Some((mitigator, programs)) = self.mitigator() {
            mitigator.tell(programs);
        }
        is_empty
    }

    /// Goes on with the recording.
    fn record(&mut self) -> Result<()> {
        let Self {
            session,
            recording,
            watch,
            ..
        } = self;
        recording.tick(
            || session.counted(),
            |connect| match watch {
                Some(watch) => watch.ports_of(connect),
                // Other network namespaces cannot be entered without privileges.
                None => RouteWatch::new(false).ports_of(connect),
            },
        )
    }

    /// Returns the mitigation with its programs, if there is one.
    fn mitigator(&mut self) -> Option<(&mut Mitigator, &mut Programs)> {
        let programs = self.session.tracer().probes().mitigation();
        self.mitigator.as_mut().zip(programs)
    }

    /// Returns the mitigation since the last report, if there is one.
    fn mitigation(&mut self) -> Option<Mitigation> {
        let (mitigator, programs) = self.mitigator()?;
        Some(mitigator.report(programs.counters()))
    }

    /// Returns the routes that fill up, with `--ports`.
    fn filling(&mut self) -> Option<Filling> {
        let watch = self.watch.as_mut()?;
        Some(watch.report(monotonic_ns()))
    }

    /// Returns the holders of all ports, for other processes.
    fn holders(&mut self) -> Result<Answer> {
        self.drain(DRAIN_BUDGET);
        let Some(watch) = &self.watch else {
            return Ok(Answer::text(404, "the service runs without --ports"));
        };
        Ok(Answer {
            status: 200,
            content_type: "application/json",
            body: serde_json::to_vec(&watch.known())?,
        })
    }

    /// Makes the report of the interval, and begins the next one.
    pub(super) fn end_interval(&mut self) -> Result<()> {
        self.drain(DRAIN_BUDGET);
        let mut kernel_side = self.session.kernel_side()?;
        kernel_side.mitigation = self.mitigation();
        kernel_side.filling = self.filling();
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
            Wanted::Ports => self.holders()?,
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
        let named = usize::from(self.args.metrics_routes);
        if named > 0
            && let Some(filling) = self.filling()
        {
            self.routes.see_filling(&filling, named);
        }
        let level = self.session.level();
        let totals = self.totals();
        let mitigation = self.mitigator();
        let mitigation =
            mitigation.map(|(mitigator, programs)| mitigator.reading(programs.counters()));
        let tracer = self.session.tracer();
        let programs = tracer.probes().runs()?;
        let accounting = tracer.accounting()?;
        Ok(Reading {
            totals,
            accounting,
            routes: self.routes.clone(),
            local_ports: LocalPorts::of_this_namespace(),
            programs: programs.unwrap_or_default(),
            mitigation,
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
    // The holder of a port is known from the record of its connect(), however fast that was.
    let min_latency = match args.ports {
        true => None,
        false => Some(given.min_latency.unwrap_or(MIN_LATENCY)),
    };
    Ok(Filters {
        min_latency,
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
