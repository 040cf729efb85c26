//! `cargo xtask compare`: compares the strategies for source ports on several kernels.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::guest::{Hardware, Kit, Task};
use crate::tools::kernels::Kernel;
use crate::vm::{AllKernels, get_kernels};
use crate::{stdout, tools};

/// Compare strategies on several kernels, side by side
///
/// Runs `connect-trace compare` under trace in a virtual machine for each kernel. The clock of its one CPU counts
/// instructions, so that times are the same in every run: compare them with each other, not with times on real
/// hardware.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    kernels: AllKernels,
    /// Range of source ports
    #[arg(long, value_name = "LOW-HIGH", default_value = "20000-21999")]
    range: String,
    /// Compare only this strategy with the default, on kernels that support it; repeatable
    #[arg(long = "strategy", value_name = "STRATEGY")]
    strategies: Vec<String>,
    /// Write every attempt into this folder, a log for each kernel, for `connect-trace report --from-load`
    #[arg(long, value_name = "FOLDER")]
    csv: Option<PathBuf>,
    /// More arguments for `connect-trace compare`
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Path of the log in a guest.
const LOG: &str = "/tmp/log.csv";

pub(crate) fn compare(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels.choices, options.kernels.arch)?;
    if let Some(folder) = &options.csv {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let kit = Kit::prepare(options.kernels.arch, true)?;
    let mut columns = Vec::new();
    for kernel in &kernels {
        eprintln!("comparing on {}", kernel.release());
        let comparison =
            run(&kit, kernel, options).with_context(|| format!("on kernel {}", kernel.name))?;
        columns.push((kernel.name.clone(), comparison));
    }
    stdout::write(table(&columns).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the comparison on one kernel, in the format of docs/load.md, and saves its log.
fn run(kit: &Kit, kernel: &Kernel, options: &Options) -> Result<Value> {
    let mut command = vec!["connect-trace", "compare", "--skip-refused"];
    command.extend(["--repeats", "1", "--format", "json", "--csv", LOG]);
    command.extend(["--range", &options.range]);
    // Every kernel supports the default, so that each has a run.
    let named =
        !options.strategies.is_empty() && !options.strategies.iter().any(|name| name == "default");
    command.extend(named.then_some("default"));
    command.extend(options.strategies.iter().map(String::as_str));
    command.extend(options.arguments.iter().map(String::as_str));
    let task = Task {
        command: command.into_iter().map(str::to_owned).collect(),
        hardware: Hardware {
            cpus: 1,
            deterministic: true,
            ..Hardware::default()
        },
        outputs: vec![LOG.to_owned()],
        ..Task::default()
    };
    let mut stdout = Vec::new();
    let outcome = kit.run_well(kernel, &task, |bytes| {
        stdout.extend_from_slice(bytes);
        Ok(())
    })?;
    if let Some(folder) = &options.csv {
        let series = kernel.name.rsplit('/').next().unwrap_or_default();
        let path = folder.join(format!("{series}.csv"));
        let log = outcome.outputs.first().context("it left no log")?;
        let log = log
            .as_ref()
            .map_err(|reason| anyhow!("it left no log: {reason}"))?;
        fs::write(&path, log).with_context(|| format!("cannot write {}", path.display()))?;
    }
    serde_json::from_slice(&stdout).context("what connect-trace printed is no JSON")
}

/// Formats a figure of a strategy's run for a table cell.
type Cell = fn(&Value) -> Option<String>;

/// Blocks of the table, with the figure of each.
const BLOCKS: [(&str, Cell); 5] = [
    ("mean us, even / odd ports", even_and_odd),
    ("candidate ports, mean", |run| {
        Some(format!("{:.1}", run["scanned_mean"].as_f64()?))
    }),
    ("connections before odd ports", |run| {
        Some(run["first_pass"].as_u64()?.to_string())
    }),
    ("ports or windows tried, mean", |run| {
        Some(format!("{:.2}", run["tries_mean"].as_f64()?))
    }),
    ("errors", |run| Some(run["errors"].as_u64()?.to_string())),
];

fn even_and_odd(run: &Value) -> Option<String> {
    let mean = |field: &str| {
        let us = run[field].as_f64().map(|ns| ns / 1e3);
        us.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"))
    };
    Some(format!(
        "{} / {}",
        mean("even_mean_ns"),
        mean("odd_mean_ns")
    ))
}

/// Returns a block for each figure, with a line for each strategy and a column for each kernel.
fn table(columns: &[(String, Value)]) -> String {
    let mut strategies: Vec<&str> = Vec::new();
    for (_, comparison) in columns {
        for strategy in comparison["strategies"].as_array().into_iter().flatten() {
            let name = strategy["strategy"].as_str().unwrap_or_default();
            if !strategies.contains(&name) {
                strategies.push(name);
            }
        }
    }
    let mut text = String::new();
    for (title, cell) in BLOCKS {
        let names = columns.iter().map(|(name, _)| name.clone());
        line(&mut text, title, names);
        for strategy in &strategies {
            let cells = columns.iter().map(|(_, comparison)| {
                let run = run_of(comparison, strategy);
                run.map_or_else(
                    || "refused".to_owned(),
                    |run| cell(&run).unwrap_or_else(|| "-".to_owned()),
                )
            });
            line(&mut text, &format!("  {strategy}"), cells);
        }
        text.push('\n');
    }
    text
}

/// Returns the single run of a strategy, together with the fields of the strategy as a whole.
fn run_of(comparison: &Value, strategy: &str) -> Option<Value> {
    let mut strategies = comparison["strategies"].as_array()?.iter();
    let found = strategies.find(|other| other["strategy"] == *strategy)?;
    let mut run = found["runs"].get(0)?.clone();
    run["first_pass"] = found["first_pass_connections"].clone();
    Some(run)
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "{first:<30}");
    for cell in cells {
        let _ = write!(text, " {cell:>11}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kernels_stand_side_by_side_and_what_one_refuses_is_said() {
        let run = json!({"even_mean_ns": 87_000.0, "odd_mean_ns": 363_400.0, "scanned_mean": 251.25, "errors": 0});
        let of = |strategies: &[&str]| {
            let strategies: Vec<Value> = strategies
                .iter()
                .map(
                    |name| json!({"strategy": name, "first_pass_connections": 1000, "runs": [run]}),
                )
                .collect();
            json!({ "strategies": strategies })
        };
        let columns = [
            ("5.10".to_owned(), of(&["default"])),
            ("6.1".to_owned(), of(&["default", "full-range"])),
        ];
        let text = table(&columns);
        let expected = "\
mean us, even / odd ports             5.10         6.1
  default                         87 / 363    87 / 363
  full-range                       refused    87 / 363

candidate ports, mean                 5.10         6.1
  default                            251.2       251.2
  full-range                       refused       251.2
";
        assert!(text.starts_with(expected), "{text}");
    }
}
