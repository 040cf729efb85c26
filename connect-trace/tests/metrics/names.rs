//! The names of metrics and labels in PromQL, wherever it stands: in the rules, on the dashboard and in the documentation.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Result, ensure};

use crate::{Test, exposition::families, promtool::root, reading::everything};

pub const TESTS: &[Test] = crate::tests![
    rules_name_metrics_and_labels_that_exist,
    documentation_names_metrics_that_exist,
    a_name_that_does_not_exist_is_found,
];

/// Labels that Prometheus, its configuration or kube-state-metrics adds.
const ADDED: [&str; 12] = [
    "alertname",
    "alertstate",
    "container",
    "host",
    "instance",
    "job",
    "namespace",
    "node",
    "pod",
    "pool",
    "severity",
    "uid",
];

/// The names that PromQL may use.
pub struct Known {
    series: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Known {
    /// Returns the names of the service's series and of the rules that are shipped.
    pub fn read() -> Result<Self> {
        let mut series = BTreeSet::new();
        let mut labels: BTreeSet<String> = ADDED.map(str::to_owned).into();
        for (name, family) in families(everything())? {
            for sample in &family.samples {
                series.insert(sample.name.clone());
                labels.extend(sample.labels.keys().cloned());
            }
            series.insert(name);
        }
        let rules = fs::read_to_string(rules())?;
        let recorded = rules
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- record: "));
        series.extend(recorded.map(str::to_owned));
        Ok(Self { series, labels })
    }

    /// Returns the names of our metrics in this text that do not exist. A name that ends with `_` stands for several.
    pub fn unknown_series<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let is_of_name =
            |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
        let words = text.split(|character| !is_of_name(character));
        let ours =
            words.filter(|word| word.contains("connect_trace_") || word.starts_with("process_"));
        ours.filter(|word| !self.series.contains(*word) && !word.ends_with('_'))
            .collect()
    }

    /// Returns the labels of matchers and groupings in this PromQL that do not exist.
    pub fn unknown_labels(&self, promql: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (start, end) in [("{", '}'), ("by (", ')'), ("without (", ')'), ("on (", ')')] {
            for (at, _) in promql.match_indices(start) {
                let inside = promql[at + start.len()..]
                    .split(end)
                    .next()
                    .unwrap_or_default();
                let names = inside.split(',').map(|part| {
                    let name = part.split(['=', '!']).next().unwrap_or_default();
                    name.trim().to_owned()
                });
                found.extend(names.filter(|name| !name.is_empty()));
            }
        }
        found.retain(|name| !self.labels.contains(name));
        found
    }
}

fn rules() -> PathBuf {
    root().join("packaging/prometheus/connect-trace.rules.yml")
}

fn rules_name_metrics_and_labels_that_exist() -> Result<()> {
    let known = Known::read()?;
    let text = fs::read_to_string(rules())?;
    let unknown = known.unknown_series(&text);
    ensure!(unknown.is_empty(), "{unknown:?}");
    // The annotations have templates in braces, and no PromQL.
    let promql: Vec<&str> = text.lines().filter(|line| !line.contains("{{")).collect();
    let unknown = known.unknown_labels(&promql.join("\n"));
    ensure!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}

fn documentation_names_metrics_that_exist() -> Result<()> {
    let known = Known::read()?;
    for name in ["docs/metrics.md", "docs/fleet.md", "README.md"] {
        let text = fs::read_to_string(root().join(name))?;
        let unknown = known.unknown_series(&text);
        ensure!(unknown.is_empty(), "{name}: {unknown:?}");
    }
    Ok(())
}

fn a_name_that_does_not_exist_is_found() -> Result<()> {
    let known = Known::read()?;
    let promql = "sum by (parity, colour) (rate(connect_trace_connects[5m])) / connect_trace_in_flight{shape!='x'}";
    ensure!(known.unknown_series(promql) == ["connect_trace_connects"]);
    ensure!(known.unknown_labels(promql) == ["shape", "colour"]);
    Ok(())
}
