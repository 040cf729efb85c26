//! Writes metrics one after the other.

use std::fmt;

use connect_trace_common::{BUCKETS, Times, buckets::lower_edge_ns};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

/// A label: its name and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// Writes metrics. Names are without unit and `_total`, which the formats add.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

impl Writer<'_> {
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.counters(name, help, unit, [([], value)])
    }

    pub(super) fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([Label<'l>; N], impl EncodeCounterValue)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            let mut one = metric.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: f64,
    ) -> fmt::Result {
        self.gauges(name, help, unit, [([], value)])
    }

    pub(super) fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([Label<'l>; N], f64)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// Writes histograms of times. Their edges are the powers of ten from a microsecond to ten seconds. A bucket holds
    /// the times below `le`, in whole nanoseconds: a time that equals it is in the next bucket, as in reports.
    pub(super) fn times<'l, 't, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label<'l>; N], &'t Times)>,
    ) -> fmt::Result {
        /// The bucket whose lower edge is a microsecond.
        const FIRST: usize = 3;
        let mut metric =
            self.0
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

    /// Writes histograms of numbers, each with its sum; the last bucket is that of all numbers above the others.
    pub(super) fn numbers<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([Label<'l>; N], u64, Vec<(f64, u64)>)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, sum, buckets) in values {
            histogram(&mut metric, &labels, sum as f64, &buckets)?;
        }
        Ok(())
    }
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
