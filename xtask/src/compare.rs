//! `cargo xtask compare`: what each strategy of choosing source ports does on several kernels, side by side.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::guest::{Hardware, Kit, Task};
use crate::tools;
use crate::tools::kernels::Kernel;
use crate::vm::{AllKernels, get_kernels};

/// Compare strategies on several kernels, side by side
///
/// Runs `connect-trace compare` under trace in a virtual machine for each kernel. Its one CPU's clock counts
/// instructions, so that times are the same in every run: what counts is how they relate, not how long they
/// are.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    kernels: AllKernels,
    /// Ports to choose from
    #[arg(long, value_name = "LOW-HIGH", default_value = "20000-21999")]
    range: String,
    /// Show only this strategy, where a kernel has it; repeatable
    #[arg(long = "strategy", value_name = "NAME")]
    strategies: Vec<String>,
    /// Keep every attempt, of all kernels, for `connect-trace report --from-load`
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// More arguments for `connect-trace compare`
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

impl Options {
    fn wants(&self, strategy: &str) -> bool {
        self.strategies.is_empty() || self.strategies.iter().any(|name| name == strategy)
    }
}

/// Where a guest keeps its log.
const LOG: &str = "/tmp/log.csv";

pub(crate) fn compare(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels.choices)?;
    let kit = Kit::prepare(true)?;
    let mut columns = Vec::new();
    let mut log = CombinedLog::default();
    for kernel in &kernels {
        eprintln!("comparing on {}", kernel.release());
        let on_kernel = || format!("on kernel {}", kernel.name);
        let (comparison, attempts) = run(&kit, kernel, options).with_context(on_kernel)?;
        log.add(&kernel.name, &attempts, |strategy| options.wants(strategy))
            .with_context(on_kernel)?;
        columns.push((kernel.name.clone(), comparison));
    }
    if let Some(path) = &options.csv {
        fs::write(path, log.text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table(&columns, |strategy| options.wants(strategy)));
    Ok(ExitCode::SUCCESS)
}

/// The comparison on one kernel and the log of its attempts, as docs/load.md has them.
fn run(kit: &Kit, kernel: &Kernel, options: &Options) -> Result<(Value, String)> {
    let fixed = [
        "--repeats",
        "1",
        "--format",
        "json",
        "--csv",
        LOG,
        "--range",
    ];
    let task = Task {
        command: ["connect-trace", "compare"]
            .into_iter()
            .chain(fixed)
            .chain([options.range.as_str()])
            .chain(options.arguments.iter().map(String::as_str))
            .map(str::to_owned)
            .collect(),
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
    let comparison =
        serde_json::from_slice(&stdout).context("what connect-trace printed is no JSON")?;
    let log = match outcome.outputs.into_iter().next() {
        Some(Ok(log)) => String::from_utf8(log).context("its log is no text")?,
        Some(Err(reason)) => bail!("it left no log: {reason}"),
        None => bail!("it left no log"),
    };
    Ok((comparison, log))
}

/// The logs of several kernels as one: each run is called by its kernel and its strategy.
#[derive(Default)]
struct CombinedLog {
    /// The first line, of the first kernel, with the runs of all.
    head: Value,
    /// The names of the columns.
    columns: String,
    lines: String,
}

impl CombinedLog {
    fn add(&mut self, kernel: &str, log: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        const FOREIGN: &str = "the log is not as docs/load.md says";
        let (first, rest) = log.split_once('\n').context(FOREIGN)?;
        let (columns, attempts) = rest.split_once('\n').context(FOREIGN)?;
        let head: Value = serde_json::from_str(first.trim_start_matches("# "))?;
        if self.head.is_null() {
            self.head = head.clone();
            self.head["runs"] = Value::Array(Vec::new());
            self.head["kernel"] = "several".into();
            self.columns = columns.to_owned();
        }
        let all = self.head["runs"].as_array_mut().context(FOREIGN)?;
        let runs = head["runs"].as_array().context(FOREIGN)?;
        let strategy = |run: usize| runs[run]["strategy"].as_str().unwrap_or_default();
        // They were made in random order.
        let mut ordered: Vec<usize> = (0..runs.len())
            .filter(|&run| wanted(strategy(run)))
            .collect();
        ordered.sort_by_key(|&run| strategy(run));
        // The number that each run has among all, where it is wanted.
        let mut numbers = vec![None; runs.len()];
        for run in ordered {
            numbers[run] = Some(all.len());
            let mut named = runs[run].clone();
            named["strategy"] = format!("{kernel} {}", strategy(run)).into();
            all.push(named);
        }
        for attempt in attempts.lines() {
            let (run, values) = attempt.split_once(',').context(FOREIGN)?;
            let number = numbers.get(run.parse::<usize>()?).context(FOREIGN)?;
            if let Some(number) = number {
                writeln!(self.lines, "{number},{values}")?;
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        format!("# {}\n{}\n{}", self.head, self.columns, self.lines)
    }
}

/// A figure of a strategy's run, as it stands in a cell.
type Cell = fn(&Value) -> Option<String>;

/// What is compared, block by block.
const BLOCKS: [(&str, Cell); 4] = [
    ("mean us, even / odd ports", even_and_odd),
    ("candidate ports, mean", |run| {
        Some(format!("{:.1}", run["scanned_mean"].as_f64()?))
    }),
    ("connections before odd ports", |run| {
        Some(run["first_pass"].as_u64()?.to_string())
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

/// A block for each figure, a line for each strategy, a column for each kernel.
fn table(columns: &[(String, Value)], wanted: impl Fn(&str) -> bool) -> String {
    let mut strategies: Vec<&str> = Vec::new();
    for (_, comparison) in columns {
        for strategy in comparison["strategies"].as_array().into_iter().flatten() {
            let name = strategy["strategy"].as_str().unwrap_or_default();
            if wanted(name) && !strategies.contains(&name) {
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

/// The one run of a strategy, with what is known of the strategy as a whole.
fn run_of(comparison: &Value, strategy: &str) -> Option<Value> {
    let mut strategies = comparison["strategies"].as_array()?.iter();
    let found = strategies.find(|other| other["strategy"] == *strategy)?;
    let mut run = found["runs"].get(0)?.clone();
    run["first_pass"] = found["first_pass_connections"].clone();
    Some(run)
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "{first:<29}");
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
        let text = table(&columns, |_| true);
        let expected = "\
mean us, even / odd ports            5.10         6.1
  default                        87 / 363    87 / 363
  full-range                      refused    87 / 363

candidate ports, mean                5.10         6.1
  default                           251.2       251.2
  full-range                      refused       251.2
";
        assert!(text.starts_with(expected), "{text}");
        assert!(!table(&columns, |name| name == "default").contains("full-range"));
    }

    #[test]
    fn logs_of_kernels_are_one_in_which_runs_are_told_apart() {
        let log = "# {\"connect_trace_load\":1,\"kernel\":\"x\",\"runs\":[{\"strategy\":\"b\"},{\"strategy\":\"a\"}]}\n\
                   run,number\n0,2\n1,1\n";
        let mut all = CombinedLog::default();
        all.add("5.10", log, |_| true).unwrap();
        all.add("6.1", log, |strategy| strategy == "b").unwrap();
        let text = all.text();
        assert!(text.starts_with("# {"), "{text}");
        for name in ["5.10 a", "5.10 b", "6.1 b"] {
            assert!(
                text.contains(&format!("{{\"strategy\":\"{name}\"}}")),
                "{text}"
            );
        }
        assert!(text.ends_with("\nrun,number\n1,2\n0,1\n2,2\n"), "{text}");
        assert!(all.add("6.12", "something else\n", |_| true).is_err());
    }
}
