//! The exposition of a [`Reading`], by the crate prometheus-client.

use std::{fmt, time::UNIX_EPOCH};

use connect_trace_common::{BUCKETS, FastGroup, Times, buckets::lower_edge_ns};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, prometheus_text, text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    Reading,
    totals::{self, CANDIDATES, Candidates},
};
use crate::{overhead::limiter::Level, term::errno};

/// Prefix of every name.
const PREFIX: &str = "connect_trace";

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Prometheus,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Returns the format that an HTTP header `Accept` asks for.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
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
        }
    }
}

/// Returns the text of all metrics.
#[must_use]
pub fn exposition(reading: Reading, format: Format) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(reading));
    let mut out = String::new();
    let written = match format {
        Format::Prometheus => prometheus_text::encode(&mut out, &registry),
        Format::OpenMetrics => text::encode(&mut out, &registry),
    };
    written.expect("a string takes any text");
    out
}

/// Labels: names and values.
type Label<'a> = (&'a str, &'a str);

/// Writes metrics one after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label<'l>; N], u64)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let mut one = metric.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    /// Writes gauges that are 1, and whose labels are the values.
    fn info<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [Label<'l>; N],
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_family(&labels)?.encode_gauge(&1_u64)
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.connects(&mut writer)?;
        self.searches(&mut writer)?;
        self.routes(&mut writer)?;
        self.account(&mut writer)?;
        self.cost(&mut writer)?;
        self.process(&mut writer)
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
                (
                    "strategy",
                    of.strategy.map_or("none", |choice| choice.name()),
                ),
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
            labelled.chain(rest),
        )?;
        writer.counters(
            "label_overflow",
            "Calls counted under the label value other, because a metric had too many label sets",
            [([("metric", "connects")], overflown)],
        )?;
        let times = |of: fn(&FastGroup) -> &Times| {
            self.totals.times().map(move |(network, parity, group)| {
                let labels = [("parity", parity.name()), ("network_type", network.name())];
                (labels, of(group))
            })
        };
        histograms(
            writer,
            "connect_duration",
            "Time in connect() until the SYN is sent or the call has failed, by parity of the port that the search found",
            times(|group| &group.connect),
        )?;
        histograms(
            writer,
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
            searches.map(|(search, count)| ([("pass", search.name())], count)),
        )?;
        let mut metric = writer.0.encode_descriptor(
            "port_search_candidates",
            "Ports that searches went through, of the calls that got a record: the slow and the failed ones",
            None,
            MetricType::Histogram,
        )?;
        for (strategy, candidates) in self.totals.candidates() {
            let Candidates { buckets, ports } = candidates;
            if buckets.iter().any(|&count| count > 0) {
                let ends = CANDIDATES.map(f64::from);
                let mut pairs: Vec<_> = ends.into_iter().zip(*buckets).collect();
                pairs.push((f64::INFINITY, 0));
                let labels = [("strategy", strategy.name())];
                histogram(&mut metric, &labels, *ports as f64, &pairs)?;
            }
        }
        Ok(())
    }

    fn routes(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.gauge(
            "route_ports_used",
            "Largest share of a route's ports that one search found taken in the last interval; 0 if none found half",
            Some(&Unit::Other("ratio".to_owned())),
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
            self.routes.warnings,
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
            misses,
        )
    }

    fn cost(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let levels = ["full", "unwatched", "sampled", "detached"];
        let present = match self.level {
            Level::Full => "full",
            Level::Unwatched => "unwatched",
            Level::Sampled(_) => "sampled",
            Level::Detached => "detached",
        };
        let mut metric = writer.0.encode_descriptor(
            "level",
            "1 for how much is traced now to keep the overhead limit, 0 for all other levels",
            None,
            MetricType::Gauge,
        )?;
        for level in levels {
            let labels = [("level", level)];
            let mut one = metric.encode_family(&labels)?;
            one.encode_gauge(&u64::from(level == present))?;
        }
        writer.gauge(
            "sample_every",
            "Records are made of one call in so many; 0 while the probes are detached",
            None,
            f64::from(self.level.sample_every().unwrap_or(0)),
        )?;
        if self.programs.is_empty() {
            return Ok(());
        }
        let runs = self.programs.iter();
        writer.counters(
            "bpf_runs",
            "Runs of a program, while the kernel counts them",
            runs.map(|program| ([("program", program.name.as_str())], program.runs)),
        )?;
        let mut metric = writer.0.encode_descriptor(
            "bpf_run",
            "Run time of a program, while the kernel measures it",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for program in &self.programs {
            let labels = [("program", program.name.as_str())];
            let mut one = metric.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(&program.time.as_secs_f64(), None)?;
        }
        Ok(())
    }

    fn process(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.info(
            "build_info",
            "The version of connect-trace",
            [("version", env!("CARGO_PKG_VERSION"))],
        )?;
        writer.info(
            "kernel_info",
            "The kernel, and the way in which the programs are attached",
            [
                ("release", self.kernel.as_str()),
                ("attached", self.attached.as_str()),
            ],
        )?;
        let mut metric = writer.0.encode_descriptor(
            "process_cpu",
            "CPU time of connect-trace",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        metric.encode_counter::<NoLabelSet, _, f64>(&self.own.cpu.as_secs_f64(), None)?;
        writer.gauge(
            "process_resident_memory",
            "Resident memory of connect-trace",
            Some(&Unit::Bytes),
            self.own.resident_bytes as f64,
        )?;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        writer.gauge(
            "process_start_time",
            "Start of connect-trace, since 1970",
            Some(&Unit::Seconds),
            started.as_secs_f64(),
        )
    }
}

/// Writes histograms of times; their edges are the powers of ten from a microsecond to ten seconds. A bucket holds the times
/// below `le`, in whole nanoseconds: a time that equals it is in the next bucket, as in reports.
fn histograms<'l, 't, const N: usize>(
    writer: &mut Writer<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = ([Label<'l>; N], &'t Times)>,
) -> fmt::Result {
    /// The bucket whose lower edge is a microsecond.
    const FIRST: usize = 3;
    let mut metric =
        writer
            .0
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (labels, times) in values {
        let below: u64 = times.buckets[..FIRST].iter().sum();
        let mut buckets = vec![(seconds(lower_edge_ns(FIRST)), below)];
        buckets.extend(
            (FIRST..BUCKETS - 1)
                .map(|bucket| (seconds(lower_edge_ns(bucket + 1)), times.buckets[bucket])),
        );
        buckets.push((f64::INFINITY, times.buckets[BUCKETS - 1]));
        histogram(&mut metric, &labels, seconds(times.total_ns), &buckets)?;
    }
    Ok(())
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Writes one histogram; its count is the sum of the buckets, which the kernel may be about to add to.
fn histogram(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    sum: f64,
    buckets: &[(f64, u64)],
) -> fmt::Result {
    let count = buckets.iter().map(|(_, count)| count).sum();
    let mut one = metric.encode_family(labels)?;
    one.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
}
