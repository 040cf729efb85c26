//! The text of the metrics, read as the formats define it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use connect_trace::metrics::{Format, Reading, Totals};

use crate::{
    Test,
    reading::{connect, everything, ordinary, text_of},
};

pub const TESTS: &[Test] = crate::tests![
    both_formats_say_the_same,
    names_have_their_units_and_suffixes,
    a_time_that_equals_an_edge_is_in_the_next_bucket,
    a_number_of_candidates_that_equals_an_edge_is_below_it,
    histograms_add_up,
    counters_that_alerts_watch_exist_before_the_first_call,
    addresses_and_names_are_in_no_metric_unless_routes_are_asked_for,
    values_of_labels_are_escaped,
];

/// A metric with all its series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    pub kind: String,
    pub help: String,
    pub unit: Option<String>,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Family {
    /// Returns the names of its labels, but not that of a histogram's buckets.
    pub fn labels(&self) -> BTreeSet<&str> {
        let names = self.samples.iter().flat_map(|sample| sample.labels.keys());
        names
            .map(String::as_str)
            .filter(|&name| name != "le")
            .collect()
    }
}

/// Parses a text; the families are named as in Prometheus, where a counter's name ends with `_total`.
pub fn parse(text: &str, format: Format) -> Result<BTreeMap<String, Family>> {
    let body = match format {
        Format::OpenMetrics => text.strip_suffix("# EOF\n").context("the end is missing")?,
        _ => text,
    };
    ensure!(body.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    for line in body.lines() {
        let line_of = || format!("in {line:?}");
        if let Some(comment) = line.strip_prefix("# ") {
            let (keyword, rest) = comment.split_once(' ').with_context(line_of)?;
            let (name, value) = rest.split_once(' ').with_context(line_of)?;
            if names.last().is_none_or(|last| last != name) {
                ensure!(
                    !names.iter().any(|known| known == name),
                    "{name} comes twice"
                );
                names.push(name.to_owned());
            }
            let family = families.entry(name.to_owned()).or_default();
            ensure!(family.samples.is_empty(), "{line}: after its samples");
            match keyword {
                "HELP" => value.clone_into(&mut family.help),
                "TYPE" => value.clone_into(&mut family.kind),
                "UNIT" => family.unit = Some(value.to_owned()),
                _ => bail!("{line}: unknown"),
            }
        } else {
            let sample = sample(line).with_context(line_of)?;
            let name = names.last().context("a sample without a type")?;
            let family = families.get_mut(name).context("the name was entered")?;
            let suffixes: &[&str] = match (family.kind.as_str(), format) {
                ("counter", Format::OpenMetrics) => &["_total"],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                ("counter" | "gauge", _) => &[""],
                (kind, _) => bail!("{name}: {kind}"),
            };
            let suffix = sample.name.strip_prefix(name.as_str());
            ensure!(
                suffix.is_some_and(|suffix| suffixes.contains(&suffix)),
                "{line}: of {name}"
            );
            let twice = |one: &Sample| (&one.name, &one.labels) == (&sample.name, &sample.labels);
            ensure!(!family.samples.iter().any(twice), "{line}: twice");
            family.samples.push(sample);
        }
    }
    let named = families.into_iter().map(|(name, family)| {
        let is_total = format == Format::OpenMetrics && family.kind == "counter";
        let name = if is_total {
            format!("{name}_total")
        } else {
            name
        };
        (name, family)
    });
    Ok(named.collect())
}

/// Parses `name{label="value",…} number`.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, mut rest) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
    };
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        // The formats write the same number in different ways.
        if label == "le" && value != "+Inf" {
            value = value.parse::<f64>().ok()?.to_string();
        }
        labels.insert(label.to_owned(), value);
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().ok()?,
    };
    let name = name.to_owned();
    Some(Sample {
        name,
        labels,
        value,
    })
}

/// Returns the metrics of a reading, from the text for Prometheus.
pub fn families(reading: Reading) -> Result<BTreeMap<String, Family>> {
    parse(&text_of(reading, Format::Prometheus), Format::Prometheus)
}

fn both_formats_say_the_same() -> Result<()> {
    for reading in [ordinary(), everything()] {
        let open = text_of(reading.clone(), Format::OpenMetrics);
        let open = parse(&open, Format::OpenMetrics)?;
        let mut plain = families(reading)?;
        ensure!(open.len() > 20 && plain.len() == open.len());
        for (name, mut family) in open {
            // Prometheus has no units.
            let unit = family.unit.take();
            ensure!(
                unit.is_none_or(|unit| name.contains(&format!("_{unit}"))),
                "{name}"
            );
            let mut other = plain.remove(&name).with_context(|| name.clone())?;
            for family in [&mut family, &mut other] {
                family.samples.sort_by(|one, other| {
                    (&one.name, &one.labels).cmp(&(&other.name, &other.labels))
                });
            }
            ensure!(family == other, "{name}: {family:?} {other:?}");
        }
        ensure!(plain.is_empty(), "{plain:?}");
    }
    Ok(())
}

fn names_have_their_units_and_suffixes() -> Result<()> {
    for (name, family) in families(everything())? {
        ensure!(
            name.starts_with("connect_trace_") || name.starts_with("process_"),
            "{name}"
        );
        ensure!(
            name.ends_with("_total") == (family.kind == "counter"),
            "{name}"
        );
        ensure!(
            !family.help.ends_with('.') && family.help.len() > 10,
            "{name}"
        );
        ensure!(!family.samples.is_empty(), "{name} has no series");
    }
    Ok(())
}

/// Returns the numbers of calls up to each edge, as the buckets of a metric have them.
fn buckets(
    families: &BTreeMap<String, Family>,
    name: &str,
    label: (&str, &str),
) -> Vec<(f64, f64)> {
    let samples = families[name].samples.iter();
    let of = samples.filter(|sample| {
        sample.labels.get(label.0).map(String::as_str) == Some(label.1)
            && sample
                .labels
                .get("network_type")
                .is_none_or(|of| of == "ipv4")
    });
    of.filter_map(|sample| Some((sample.labels.get("le")?.parse().ok()?, sample.value)))
        .collect()
}

fn a_time_that_equals_an_edge_is_in_the_next_bucket() -> Result<()> {
    let up_to = |connect_ns, edge: f64| -> Result<f64> {
        let mut totals = Totals::default();
        totals.record(&connect(connect_ns, 32_768, 1));
        let families = families(Reading {
            totals,
            ..ordinary()
        })?;
        let name = "connect_trace_connect_duration_seconds";
        let buckets = buckets(&families, name, ("parity", "even"));
        let bucket = buckets.into_iter().find(|(le, _)| *le == edge);
        Ok(bucket.with_context(|| format!("no edge {edge}"))?.1)
    };
    for (edge_ns, edge) in [(1_000, 1e-6), (10_000, 1e-5), (10_000_000_000, 10.0)] {
        ensure!(up_to(edge_ns - 1, edge)? == 1.0, "{edge}");
        ensure!(up_to(edge_ns, edge)? == 0.0, "{edge}");
        ensure!(up_to(edge_ns, f64::INFINITY)? == 1.0, "{edge}");
    }
    Ok(())
}

fn a_number_of_candidates_that_equals_an_edge_is_below_it() -> Result<()> {
    let mut totals = Totals::default();
    totals.record(&connect(1_000, 32_768, 10));
    totals.record(&connect(1_000, 32_768, 11));
    let families = families(Reading {
        totals,
        ..ordinary()
    })?;
    let name = "connect_trace_port_search_candidates";
    let counts = buckets(&families, name, ("strategy", "default"));
    let expected = [(1.0, 0.0), (10.0, 1.0), (100.0, 2.0)];
    ensure!(counts[..3] == expected, "{counts:?}");
    Ok(())
}

fn histograms_add_up() -> Result<()> {
    let families = families(everything())?;
    let histograms = families
        .values()
        .filter(|family| family.kind == "histogram");
    let mut seen = 0;
    for family in histograms {
        let mut last: Option<&Sample> = None;
        for sample in &family.samples {
            if sample.name.ends_with("_bucket") {
                let before = last.replace(sample).filter(|last| {
                    let of = |sample: &Sample| {
                        let mut labels = sample.labels.clone();
                        labels.remove("le");
                        labels
                    };
                    of(last) == of(sample)
                });
                ensure!(before.is_none_or(|before| before.value <= sample.value));
            } else if sample.name.ends_with("_count") {
                seen += 1;
            }
        }
        for count in family
            .samples
            .iter()
            .filter(|of| of.name.ends_with("_count"))
        {
            let mut labels = count.labels.clone();
            labels.insert("le".to_owned(), "+Inf".to_owned());
            let all = family.samples.iter().find(|sample| sample.labels == labels);
            ensure!(all.context("+Inf")?.value == count.value, "{count:?}");
        }
    }
    ensure!(seen == 2 * 6 + 6 + 2, "{seen} histograms");
    Ok(())
}

fn counters_that_alerts_watch_exist_before_the_first_call() -> Result<()> {
    let reading = Reading {
        totals: Totals::default(),
        ..ordinary()
    };
    let families = families(reading)?;
    let connects = &families["connect_trace_connects_total"].samples;
    for network in ["ipv4", "ipv6"] {
        for strategy in ["default", "range", "address", "bind", "explicit-port"] {
            for error in ["", "EADDRNOTAVAIL"] {
                let labels = [
                    ("network_type", network),
                    ("strategy", strategy),
                    ("error_type", error),
                ];
                let labels: BTreeMap<_, _> =
                    labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
                let found = connects.iter().find(|sample| sample.labels == labels);
                ensure!(
                    found.is_some_and(|sample| sample.value == 0.0),
                    "{labels:?}"
                );
            }
        }
    }
    for (name, series) in [
        ("connect_trace_port_searches_total", 4),
        ("connect_trace_connect_calls_total", 7),
        ("connect_trace_label_overflow_total", 1),
        ("connect_trace_route_warnings_total", 1),
    ] {
        ensure!(families[name].samples.len() == series, "{name}");
    }
    Ok(())
}

fn addresses_and_names_are_in_no_metric_unless_routes_are_asked_for() -> Result<()> {
    let text = text_of(ordinary(), Format::Prometheus);
    for data in [
        "127.0.0.1",
        ":443",
        "4242",
        "secret",
        "source=",
        "destination=",
    ] {
        ensure!(!text.contains(data), "{data} in {text}");
    }
    let text = text_of(everything(), Format::Prometheus);
    ensure!(text.contains("destination=\"10.0.0.2:7\""), "{text}");
    Ok(())
}

fn values_of_labels_are_escaped() -> Result<()> {
    let kernel = "6.1\"\\\nx".to_owned();
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let reading = Reading {
            kernel: kernel.clone(),
            ..ordinary()
        };
        let families = parse(&text_of(reading, format), format)?;
        let labels = &families["connect_trace_kernel_info"].samples[0].labels;
        ensure!(labels["release"] == kernel, "{labels:?}");
    }
    Ok(())
}
