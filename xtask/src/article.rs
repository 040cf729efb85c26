//! `cargo xtask article`: makes the runs of the article that connect-trace is about, on this machine, and
//! says what agrees with it.

mod checks;
mod figures;

use std::fmt::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::{env, io, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::checks::checks;
use self::figures::{ARTICLE, Figures};
use crate::{process, stdout, tools, workspace};

/// Ports of the article's bench.
const RANGE: &str = "9024-65535";

/// How many they are.
const PORTS: u64 = 56_512;

/// Repeat the article's measurements on this machine, without root and without BPF
///
/// Connects from all 56,512 ports of 9024-65535 in private network namespaces, by each strategy of the
/// article, prints what it took beside the article's figures, and checks what must agree. The exit status is
/// 1 where something does not. Takes one to two minutes, most of it the default's odd ports.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What is random follows from this
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

pub(crate) fn article(options: &Options) -> Result<ExitCode> {
    let program = build()?;
    let seed = options.seed.to_string();
    let mut runs = Vec::new();
    for arguments in [
        "default full-range select-test-repeat",
        "window --window 500 --window 1000 --window 5000 --window 10000",
        "addresses --addresses 2",
        "default --protocol udp",
    ] {
        let mut command = Command::new(&program);
        command
            .arg("load")
            .args(arguments.split(' '))
            .args(["--range", RANGE, "--connections", &PORTS.to_string()])
            .args(["--seed", &seed, "--format", "json"]);
        runs.extend(made_by(&mut command)?);
    }
    let checks = checks(&runs);
    let mut text = format!("{}\n{}\n", machine(), table(&runs));
    for check in &checks {
        let _ = writeln!(text, "{check}");
    }
    stdout::write(text.as_bytes())?;
    Ok(if checks.iter().all(|check| check.agrees) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn build() -> Result<std::path::PathBuf> {
    if env::var_os("CONNECT_TRACE_BPF_OBJECT").is_none() {
        tools::ensure_for_build()?;
    }
    let target = workspace::root().join("target");
    let mut build = workspace::cargo();
    build
        .args(["build", "--release", "--package", "connect-trace"])
        .arg("--target-dir")
        .arg(&target);
    process::shown(&mut build)?;
    Ok(target.join("release/connect-trace"))
}

/// The runs that a command prints, one a line. Its progress is seen.
fn made_by(command: &mut Command) -> Result<Vec<Figures>> {
    let line = process::line(command);
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({})", output.status);
    }
    let text = String::from_utf8(output.stdout).context("its output is not UTF-8")?;
    text.lines()
        .map(|line| {
            let run: Value = serde_json::from_str(line).context("a run is no JSON")?;
            Figures::of(&run)
        })
        .collect()
}

/// What it was measured on.
fn machine() -> String {
    let read =
        |file: &str| io::Result::Ok(std::fs::read_to_string(Path::new(file))?.trim().to_owned());
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".to_owned());
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{PORTS} connections, ports {RANGE}, {processors} processors, Linux {kernel}")
}

/// Each run, and the article's below it where it has one.
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
