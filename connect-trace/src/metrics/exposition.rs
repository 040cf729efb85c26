//! The exposition of a [`Reading`], by the crate prometheus-client.

use std::fmt;

use connect_trace_common::{FastGroup, Times};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::{Registry, Unit},
};

#[cfg(feature = "native-histograms")]
use super::native;
use super::{
    Reading,
    reading::RouteEnd,
    totals::{self, CANDIDATES},
    writer::Writer,
};
use crate::{overhead::limiter::Level, term::errno};

/// Prefix of the names of all metrics but those of the process.
const PREFIX: &str = "connect_trace";

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Prometheus,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
    /// Prometheus' binary format, the only one with native histograms.
    #[cfg(feature = "native-histograms")]
    Binary,
}

impl Format {
    /// Returns the format that an HTTP header `Accept` asks for.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
        // A client that knows it prefers it.
        #[cfg(feature = "native-histograms")]
        if header.contains(native::ACCEPTED) {
            return Self::Binary;
        }
        if header.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the HTTP header `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            #[cfg(feature = "native-histograms")]
            Self::Binary => native::CONTENT_TYPE,
        }
    }
}

/// Returns all metrics in a format; text in UTF-8.
#[must_use]
pub fn exposition(reading: Reading, format: Format) -> Vec<u8> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(reading.process));
    let own = registry.sub_registry_with_prefix(PREFIX);
    #[cfg(feature = "native-histograms")]
    if format == Format::Binary {
        own.register_collector(Box::new(reading.totals.recorded().clone()));
    }
    own.register_collector(Box::new(reading));
    let mut out = String::new();
    let written = match format {
        Format::Prometheus => prometheus_text::encode(&mut out, &registry),
        Format::OpenMetrics => text::encode(&mut out, &registry),
        #[cfg(feature = "native-histograms")]
        Format::Binary => return native::encode(&registry),
    };
    written.expect("a string takes any text");
    out.into_bytes()
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.connects(&mut writer)?;
        self.searches(&mut writer)?;
        self.routes(&mut writer)?;
        self.route_ends(&mut writer)?;
        self.local_ports(&mut writer)?;
        if let Some(mitigation) = &self.mitigation {
            mitigation.encode(&mut writer)?;
        }
        self.account(&mut writer)?;
        self.cost(&mut writer)?;
        self.about(&mut writer)
    }
}

impl Reading {
    fn connects(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let of_errno = |errno| match errno {
            0 => String::new(),
            errno => errno::name(errno),
        };
        let connects: Vec<_> = self.totals.connects().collect();
        let errors: Vec<String> = connects.iter().map(|(of, _)| of_errno(of.errno)).collect();
        let labelled = connects.iter().zip(&errors).map(|((of, count), error)| {
            let labels = [
                ("network_type", of.network.name()),
                ("strategy", totals::strategy_name(of.strategy)),
                ("error_type", error.as_str()),
            ];
            (labels, *count)
        });
        let overflown = self.totals.overflown();
        let other = [
            ("network_type", totals::OTHER),
            ("strategy", totals::OTHER),
            ("error_type", totals::OTHER),
        ];
        let rest = (overflown > 0).then_some((other, overflown));
        writer.counters(
            "connects",
            "Calls of connect(), by IP version, port choice and errno",
            None,
            labelled.chain(rest),
        )?;
        writer.counters(
            "label_overflow",
            "Calls counted under the label value other, because a metric had too many label sets",
            None,
            [([("metric", "connects")], overflown)],
        )?;
        let times = |of: fn(&FastGroup) -> &Times| {
            self.totals.times().map(move |(network, parity, group)| {
                let labels = [("parity", parity.name()), ("network_type", network.name())];
                (labels, of(group))
            })
        };
        writer.times(
            "connect_duration",
            "Time in connect() until the SYN is sent or the call has failed, by parity of the port that the search found",
            times(|group| &group.connect),
        )?;
        writer.times(
            "port_search_duration",
            "Time in the search for a source port, by parity of the port that it found",
            times(|group| &group.search),
        )
    }

    fn searches(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let searches = self.totals.searches();
        writer.counters(
            "port_searches",
            "Searches for a source port, by the pass that found one; exhausted if all ports were taken",
            None,
            searches.map(|(search, count)| ([("pass", search.name())], count)),
        )?;
        let candidates = self.totals.candidates();
        let made = candidates.filter(|(_, candidates)| candidates.searches() > 0);
        writer.numbers(
            "port_search_candidates",
            "Ports that searches went through, of the calls that got a record: the slow and the failed ones",
            made.map(|(strategy, candidates)| {
                let ends = CANDIDATES.map(f64::from).into_iter();
                let buckets = ends.zip(candidates.buckets).chain([(f64::INFINITY, 0)]);
                let labels = [("strategy", totals::strategy_name(strategy))];
                (labels, candidates.ports, buckets.collect())
            }),
        )
    }

    fn routes(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let ratio = Unit::Other("ratio".to_owned());
        writer.gauge(
            "route_ports_used",
            "Largest share of a route's ports that one search found taken in the last interval; 0 if none found half",
            Some(&ratio),
            self.routes.used_ratio,
        )?;
        writer.gauge(
            "routes_exhausting",
            "Routes with searches that found half of their ports taken or more, in the last interval",
            None,
            self.routes.exhausting as f64,
        )?;
        writer.counter(
            "route_warnings",
            "Routes whose ports were seen to run out for the first time",
            None,
            self.routes.warnings,
        )?;
        if self.routes.named.is_empty() {
            return Ok(());
        }
        let addresses: Vec<_> = self
            .routes
            .named
            .iter()
            .map(|route| {
                let addresses = (route.source.to_string(), route.destination.to_string());
                (addresses, route.used_ratio)
            })
            .collect();
        writer.gauges(
            "named_route_ports_used",
            "Largest share of the ports of a route that one search found taken in the last interval; only with --metrics-routes",
            Some(&ratio),
            addresses.iter().map(|((source, destination), ratio)| {
                ([("source", source.as_str()), ("destination", destination.as_str())], *ratio)
            }),
        )
    }

    fn route_ends(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let addresses = |end: &RouteEnd| (end.source.to_string(), end.destination.to_string());
        let ends: Vec<_> = (self.routes.ends.iter())
            .map(|end| (addresses(end), end))
            .collect();
        type Value = fn(&RouteEnd) -> Option<f64>;
        let metrics: [(&str, &str, Value); 4] = [
            (
                "route_opens_per_second",
                "Connections that took a port of a route that fills up, per second; only with --ports and --metrics-routes",
                |end| Some(end.opens_per_s),
            ),
            (
                "route_closes_per_second",
                "Connections of a route that fills up that ended, per second; only with --ports and --metrics-routes",
                |end| Some(end.closes_per_s),
            ),
            (
                "route_seconds_until_second_pass",
                "Seconds until searches on a route find ports in the second pass only, if that is predicted; only with --ports and --metrics-routes",
                |end| end.second_pass_s,
            ),
            (
                "route_seconds_until_exhausted",
                "Seconds until connect() finds no port on a route any more, if that is predicted; only with --ports and --metrics-routes",
                |end| end.exhausted_s,
            ),
        ];
        for (name, help, value) in metrics {
            let values: Vec<_> = ends
                .iter()
                .filter_map(|((source, destination), end)| {
                    let labels = [
                        ("source", source.as_str()),
                        ("destination", destination.as_str()),
                    ];
                    Some((labels, value(end)?))
                })
                .collect();
            if !values.is_empty() {
                writer.gauges(name, help, None, values)?;
            }
        }
        Ok(())
    }

    fn local_ports(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let Some(ports) = self.local_ports else {
            return Ok(());
        };
        let kinds = [
            ("range", Some(ports.range)),
            ("reserved", Some(ports.reserved)),
            ("listening_in_range", ports.listening_in_range),
        ];
        writer.gauges(
            "local_ports",
            "Ports from which connect() chooses in the network namespace of the service, and those of them that it cannot choose",
            None,
            kinds
                .into_iter()
                .filter_map(|(kind, count)| Some(([("kind", kind)], count? as f64))),
        )
    }

    fn account(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let account = &self.accounting;
        let kernel = &account.kernel;
        let outcomes = [
            ("reported", account.decoded),
            ("summed", kernel.fast),
            ("left_out", kernel.succeeded),
            ("not_sampled", kernel.unsampled),
            ("lost_ring", kernel.ring_full + account.undecodable),
            ("lost_in_flight", kernel.in_flight_full),
            ("lost_return", kernel.return_missed),
        ];
        writer.counters(
            "connect_calls",
            "Calls that passed the filters, by what became of their records",
            None,
            outcomes.map(|(outcome, count)| ([("outcome", outcome)], count)),
        )?;
        writer.gauge(
            "in_flight",
            "Calls that have not returned",
            None,
            account.in_flight as f64,
        )?;
        writer.gauge(
            "account_complete",
            "1 if every call since the start is accounted for and none went unseen, else 0",
            None,
            f64::from(u8::from(account.complete())),
        )?;
        let misses = [
            ("connect", "recursion", account.recursion_misses),
            ("connect", "kretprobe_slot", account.kretprobe_misses),
            ("process_fork", "recursion", account.fork_misses),
            ("thread_exit", "recursion", account.thread_end_misses),
        ];
        let misses = misses.into_iter().filter_map(|(program, kind, count)| {
            Some(([("program", program), ("kind", kind)], count?))
        });
        writer.counters(
            "kernel_misses",
            "Runs of a program that the kernel skipped, by its own count",
            None,
            misses,
        )
    }

    fn cost(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let present = self.level.name();
        writer.gauges(
            "level",
            "1 for how much is traced now to keep the overhead limit, 0 for all other levels",
            None,
            Level::NAMES.map(|level| ([("level", level)], f64::from(u8::from(level == present)))),
        )?;
        writer.gauge(
            "sample_every",
            "Records are made of one call in so many; 0 while the probes are detached",
            None,
            f64::from(self.level.sample_every().unwrap_or(0)),
        )?;
        if self.programs.is_empty() {
            return Ok(());
        }
        let programs = self.programs.iter();
        let programs = programs.map(|program| ([("program", program.name.as_str())], program));
        writer.counters(
            "bpf_runs",
            "Runs of a program, while the kernel counts them",
            None,
            programs
                .clone()
                .map(|(labels, program)| (labels, program.runs)),
        )?;
        writer.counters(
            "bpf_run",
            "Run time of a program, while the kernel measures it",
            Some(&Unit::Seconds),
            programs.map(|(labels, program)| (labels, program.time.as_secs_f64())),
        )
    }

    fn about(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.gauges(
            "build_info",
            "1; the label is the version of connect-trace",
            None,
            [([("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        )?;
        writer.gauges(
            "kernel_info",
            "1; the labels are the kernel's release and the way in which the programs are attached",
            None,
            [(
                [
                    ("release", self.kernel.as_str()),
                    ("attached", self.attached.as_str()),
                ],
                1.0,
            )],
        )
    }
}
