//! The dashboard for Grafana.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Test, names::Known, promtool::root};

pub const TESTS: &[Test] = crate::tests![
    each_query_names_metrics_and_labels_that_exist,
    each_panel_has_its_place_and_the_chosen_source_and_hosts,
];

fn dashboard() -> Result<Value> {
    let text = fs::read_to_string(root().join("packaging/grafana/connect-trace.json"))?;
    Ok(serde_json::from_str(&text)?)
}

/// Returns the panels that show something, which rows do not.
fn panels(dashboard: &Value) -> Result<Vec<&Value>> {
    let panels = dashboard["panels"].as_array().context("panels")?;
    Ok(panels
        .iter()
        .filter(|panel| panel["type"] != "row")
        .collect())
}

fn queries(panel: &Value) -> Result<Vec<&str>> {
    let targets = panel["targets"].as_array().context("targets")?;
    let queries = targets
        .iter()
        .map(|target| target["expr"].as_str().context("expr"));
    queries.collect()
}

fn each_query_names_metrics_and_labels_that_exist() -> Result<()> {
    let known = Known::read()?;
    let dashboard = dashboard()?;
    let mut all = 0;
    for panel in panels(&dashboard)? {
        for query in queries(panel)? {
            let unknown = (known.unknown_series(query), known.unknown_labels(query));
            ensure!(
                unknown.0.is_empty() && unknown.1.is_empty(),
                "{query}: {unknown:?}"
            );
            ensure!(
                query.contains("connect_trace_") || query.contains("process_"),
                "{query}"
            );
            all += 1;
        }
    }
    for variable in dashboard["templating"]["list"]
        .as_array()
        .context("variables")?
    {
        if let Some(query) = variable["query"]["query"].as_str() {
            ensure!(known.unknown_series(query).is_empty(), "{query}");
        }
    }
    ensure!(all >= 15, "{all} queries");
    Ok(())
}

fn each_panel_has_its_place_and_the_chosen_source_and_hosts() -> Result<()> {
    let dashboard = dashboard()?;
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("panels")? {
        let number = |name: &str| panel["gridPos"][name].as_u64().context("gridPos");
        let (x, y, width, height) = (number("x")?, number("y")?, number("w")?, number("h")?);
        ensure!(x + width <= 24, "{panel}");
        for row in y..y + height {
            for column in x..x + width {
                ensure!(taken.insert((row, column)), "{} overlaps", panel["title"]);
            }
        }
        ensure!(ids.insert(panel["id"].as_u64().context("id")?), "{panel}");
    }
    for panel in panels(&dashboard)? {
        ensure!(panel["datasource"]["uid"] == "${datasource}", "{panel}");
        for query in queries(panel)? {
            // Every selector, so that no panel shows other hosts than the rest.
            let selectors =
                query.matches("connect_trace_").count() + query.matches("process_").count();
            let chosen = query
                .matches("{instance=~\"$instance\",pool=~\"$pool\"")
                .count();
            ensure!(selectors == chosen, "{query}");
        }
    }
    let variables = dashboard["templating"]["list"]
        .as_array()
        .context("variables")?;
    let names: Vec<&str> = variables
        .iter()
        .filter_map(|of| of["name"].as_str())
        .collect();
    ensure!(names == ["datasource", "pool", "instance"], "{names:?}");
    Ok(())
}
