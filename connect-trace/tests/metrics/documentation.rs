//! docs/metrics.md lists each metric as the service has it, and docs/fleet.md each alert.

use std::fs;

use anyhow::{Result, ensure};

use crate::{Test, exposition::families, promtool::root, reading::everything};

pub const TESTS: &[Test] = crate::tests![
    the_table_of_metrics_is_the_service_s,
    each_alert_has_a_runbook,
];

fn the_table_of_metrics_is_the_service_s() -> Result<()> {
    let rows = families(everything())?.into_iter().map(|(name, family)| {
        let labels: Vec<String> = family
            .labels()
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = labels.join(", ");
        format!(
            "| `{name}` | {} | {labels} | {} |\n",
            family.kind, family.help
        )
    });
    let table: String = rows.collect();
    let text = fs::read_to_string(root().join("docs/metrics.md"))?;
    let head = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    ensure!(
        text.contains(&format!("{head}{table}\n")),
        "the table of docs/metrics.md has to be:\n{head}{table}"
    );
    Ok(())
}

fn each_alert_has_a_runbook() -> Result<()> {
    let rules = fs::read_to_string(root().join("packaging/prometheus/connect-trace.rules.yml"))?;
    let fleet = fs::read_to_string(root().join("docs/fleet.md"))?;
    let mut alerts = 0;
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap_or_default();
        let anchor = format!("runbook: docs/fleet.md#{}\n", name.to_lowercase());
        ensure!(alert.contains(&anchor), "{name} names no runbook: {anchor}");
        ensure!(
            fleet.contains(&format!("### {name}\n")),
            "docs/fleet.md has no {name}"
        );
        alerts += 1;
    }
    ensure!(alerts == 9, "{alerts} alerts");
    Ok(())
}
