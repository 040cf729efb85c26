//! Native histograms of Prometheus, each of whose buckets is 9 % wider than the one before: of the calls with a record only, as the kernel sums up
//! the others by powers of ten. They are in the binary format of Prometheus alone.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet, prometheus_protobuf,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::totals::{Network, Parity};

/// Bucket edges are the powers of two to the power of `-SCHEMA`.
const SCHEMA: i32 = 3;

/// Buckets for each doubling.
const BUCKETS_PER_DOUBLING: f64 = (1 << SCHEMA) as f64;

/// The times of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Times {
    /// Number of calls by the index of the bucket: no more than there are between a nanosecond and 584 years.
    buckets: BTreeMap<i32, u64>,
    total_ns: u64,
}

impl Times {
    pub(super) fn record(&mut self, ns: u64) {
        // A clock that does not move within a call.
        let seconds = ns.max(1) as f64 / 1e9;
        let bucket = (seconds.log2() * BUCKETS_PER_DOUBLING).ceil() as i32;
        *self.buckets.entry(bucket).or_default() += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
    }

    /// Returns the runs of buckets without a gap, each with its distance from the one before, and the differences between
    /// the counts of neighbours.
    fn spans_and_deltas(&self) -> (Vec<(i32, u32)>, Vec<i64>) {
        let mut spans: Vec<(i32, u32)> = Vec::new();
        let mut deltas = Vec::new();
        let mut next = 0;
        let mut before = 0;
        for (&bucket, &count) in &self.buckets {
            match spans.last_mut() {
                Some((_, length)) if bucket == next => *length += 1,
                _ => spans.push((bucket - next, 1)),
            }
            next = bucket + 1;
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            deltas.push(count - before);
            before = count;
        }
        (spans, deltas)
    }
}

/// The times of calls with a record, by network and parity.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded(pub(super) [[Times; Parity::ALL.len()]; Network::ALL.len()]);

impl Collector for Recorded {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "recorded_connect_duration",
            "Time in connect() of the calls that got a record: the slow and the failed ones",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (network, times) in Network::ALL.into_iter().zip(&self.0) {
            for (parity, times) in Parity::ALL.into_iter().zip(times) {
                let labels = [("parity", parity.name()), ("network_type", network.name())];
                let (spans, deltas) = times.spans_and_deltas();
                let none = NativeHistogramBuckets {
                    spans: &[],
                    deltas: &[],
                };
                // A histogram without a span would be taken for a classic one.
                let spans = if spans.is_empty() {
                    vec![(0, 0)]
                } else {
                    spans
                };
                metric
                    .encode_family(&labels)?
                    .encode_histogram_with_native::<NoLabelSet>(
                        times.total_ns as f64 / 1e9,
                        times.buckets.values().sum(),
                        &[],
                        None,
                        NativeHistogram {
                            schema: SCHEMA,
                            zero_threshold: 0.0,
                            zero_count: 0,
                            negative: none,
                            positive: NativeHistogramBuckets {
                                spans: &spans,
                                deltas: &deltas,
                            },
                            created: None,
                        },
                    )?;
            }
        }
        Ok(())
    }
}

/// Value of the HTTP header `Content-Type`.
pub(super) const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// The part of the header `Accept` by which a client asks for this format.
pub(super) const ACCEPTED: &str = "proto=io.prometheus.client.MetricFamily";

/// Returns the metrics of a registry in the binary format.
pub(super) fn encode(registry: &Registry) -> Vec<u8> {
    prometheus_protobuf::encode_to_vec(registry).expect("all metrics have a type of this format")
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_protobuf::{
        self,
        prometheus_data_model::{Histogram, MetricFamily},
    };

    use super::*;
    use crate::{connect::Connect, fixtures::connect_from, metrics::Totals};

    fn families(recorded: Recorded) -> Vec<MetricFamily> {
        let mut registry = Registry::with_prefix("connect_trace");
        registry.register_collector(Box::new(recorded));
        prometheus_protobuf::encode(&registry).unwrap()
    }

    /// Returns the lower edge, the upper edge and the count of each bucket that is not empty, as Prometheus reads them.
    fn buckets(histogram: &Histogram) -> Vec<(f64, f64, i64)> {
        let edge = |bucket: i32| (f64::from(bucket) / 8.0).exp2();
        let (mut bucket, mut count) = (0, 0);
        let mut deltas = histogram.positive_delta.iter();
        let mut found = Vec::new();
        for span in &histogram.positive_span {
            bucket += span.offset;
            for _ in 0..span.length {
                count += deltas.next().unwrap();
                found.push((edge(bucket - 1), edge(bucket), count));
                bucket += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        found
    }

    #[test]
    fn each_time_is_in_the_bucket_around_it() {
        let times = [1_500, 20_000, 20_100, 21_000, 3_000_000, 4_000_000_000];
        let mut totals = Totals::default();
        for connect_ns in times {
            totals.record(&Connect {
                connect_ns,
                ..connect_from(20_000)
            });
        }
        let families = families(totals.recorded().clone());
        assert_eq!(
            families[0].name,
            "connect_trace_recorded_connect_duration_seconds"
        );
        assert_eq!(families[0].metric.len(), 6);
        let histogram = families[0].metric[0].histogram.as_ref().unwrap();
        assert_eq!(
            (histogram.schema, histogram.sample_count),
            (3, times.len() as u64)
        );
        let total: u64 = times.iter().sum();
        assert!((histogram.sample_sum - total as f64 / 1e9).abs() < 1e-9);
        let buckets = buckets(histogram);
        let counted: i64 = buckets.iter().map(|(.., count)| count).sum();
        assert_eq!(counted, times.len() as i64);
        for (low, high, count) in buckets {
            let within = times.iter().map(|&ns| ns as f64 / 1e9);
            let within = within.filter(|&time| low < time && time <= high);
            assert_eq!(within.count() as i64, count, "{low} {high}");
            assert!(high / low < 1.1);
        }
        let empty = families[0].metric[1].histogram.as_ref().unwrap();
        assert_eq!(empty.positive_span.len(), 1, "or it would be a classic one");
        assert!(self::buckets(empty).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut times = Times::default();
        for shift in 0..64 {
            for ns in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                times.record(ns);
            }
        }
        let (first, last) = (times.buckets.keys().next(), times.buckets.keys().last());
        assert!(last.unwrap() - first.unwrap() <= 64 * 8);
    }
}
