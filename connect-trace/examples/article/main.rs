//! Repeats the measurements of the article behind connect-trace on this machine, and prints the results that agree with
//! it: `cargo run --release --example article`. docs/article.md has the output of a run.

mod checks;
mod figures;

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    process::{Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::Value;

use self::{
    checks::checks,
    figures::{ARTICLE, Figures},
};

/// Ports of the article's benchmark.
const RANGE: &str = "9024-65535";

/// The number of ports in [`RANGE`].
const PORTS: u64 = 56_512;

/// Arguments of `connect-trace load` for the strategies of the article, and for those that it does not have.
const RUNS: [&str; 6] = [
    "default full-range select-test-repeat",
    "window --window 500 --window 1000 --window 5000 --window 10000",
    "addresses --addresses 2",
    "default --protocol udp",
    "cursor window-cursor window-retry",
    "cursor --protocol udp",
];

/// Repeat the article's measurements on this machine, without root and without BPF
///
/// Connects from all 56,512 ports of 9024-65535 in private network namespaces, by each strategy of the article and by three others, prints
/// the results beside the article's figures, and checks those that must agree. The exit status is 1 if one does not.
/// Takes one to two minutes, most of it for the odd ports of the default strategy.
#[derive(Parser)]
#[command(name = "article")]
struct Options {
    /// Seed of the random numbers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut runs = Vec::new();
    for arguments in RUNS {
        runs.extend(load(arguments, options.seed)?);
    }
    let checks = checks(&runs);
    let mut text = format!("{}\n{}\n", machine(), table(&runs));
    for check in &checks {
        let _ = writeln!(text, "{check}");
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(if checks.iter().all(|check| check.agrees) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs `connect-trace load` and returns its runs. Its progress is shown.
fn load(arguments: &str, seed: u64) -> Result<Vec<Figures>> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["run", "--quiet", "--release", "--package", "connect-trace"])
        .args(["--", "load"])
        .args(arguments.split(' '))
        .args(["--range", RANGE, "--connections", &PORTS.to_string()])
        .args(["--seed", &seed.to_string(), "--format", "json"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({})", output.status);
    }
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| {
            let run: Value = serde_json::from_str(line)
                .with_context(|| format!("{command:?} printed what is no JSON: {line}"))?;
            Figures::of(&run)
        })
        .collect()
}

/// Describes the kernel and the machine of the measurement.
fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
    let kernel = kernel.unwrap_or_else(|_| "unknown".to_owned());
    let processors = thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{PORTS} connections, ports {RANGE}, {processors} processors, Linux {}",
        kernel.trim()
    )
}

/// Returns a line for each run, with the article's figures below it if there are any.
fn table(runs: &[Figures]) -> String {
    let mut text = String::new();
    let titles = ["even ms", "odd ms", "errors", "total s", "conn/s"];
    let _ = write!(text, "\n{:<22}", "run");
    for title in titles {
        let _ = write!(text, " {title:>10}");
    }
    text.push('\n');
    for run in runs {
        row(&mut text, &run.name, run);
        if let Some(article) = ARTICLE.iter().find(|article| article.0 == run.name) {
            row(&mut text, "  the article", &article.1.into());
        }
    }
    text
}

fn row(text: &mut String, name: &str, run: &Figures) {
    let dash = || "-".to_owned();
    let cells = [
        run.even_ms.map_or_else(dash, |ms| format!("{ms:.4}")),
        run.odd_ms.map_or_else(dash, |ms| format!("{ms:.4}")),
        run.errors.map_or_else(dash, |count| count.to_string()),
        run.total_s.map_or_else(dash, |s| format!("{s:.2}")),
        run.per_second
            .map_or_else(dash, |rate| format!("{rate:.0}")),
    ];
    let _ = write!(text, "{name:<22}");
    for cell in cells {
        let _ = write!(text, " {cell:>10}");
    }
    text.push('\n');
}
