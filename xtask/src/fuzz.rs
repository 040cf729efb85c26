//! `cargo xtask fuzz`: looks for inputs that break a parser, with LLVM's libFuzzer, which follows the code that an input
//! reaches. The targets are unit tests, which `cargo test` runs with their corpus and some changes of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::tools::{self, libfuzzer};
use crate::{process, workspace};

/// Folder of the corpora, one for each target, in the package's folder.
const CORPUS: &str = "tests/corpus";

/// Lines of a failed run that are shown.
const SHOWN: usize = 40;

/// Look for inputs that break a parser, with libFuzzer
///
/// An input that breaks a target (a panic, more than ten seconds, more than 512 MiB) is kept in target/fuzz/: after the
/// fix it belongs into the target's corpus. Inputs that reach further code are kept there for the next run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Time for each target
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Folders of connect-trace/tests/corpus [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(crate) fn fuzz(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let package = workspace::root().join("connect-trace");
    let all = names(&package.join(CORPUS))?;
    let chosen = if options.targets.is_empty() {
        &all
    } else {
        &options.targets
    };
    for name in chosen {
        ensure!(
            all.contains(name),
            "there is no target {name}; the targets are {}",
            all.join(", ")
        );
    }
    let program = build()?;
    let mut status = ExitCode::SUCCESS;
    for target in chosen {
        match run(&program, &package, target, options.seconds) {
            Ok(found) => eprintln!("{target}: {found}"),
            Err(error) => {
                eprintln!("error: {target}: {error:#}");
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

/// Returns the names of the targets.
fn names(corpus: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpus).with_context(|| format!("read {}", corpus.display()))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Builds the unit tests with counters of the code that is reached, in connect-trace's own code and what it makes of
/// generic code: its dependencies are those of `cargo test`, and their authors fuzz them.
fn build() -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let engine = libfuzzer::ensure()?;
    let mut cargo = workspace::cargo();
    cargo
        .args(["rustc", "--package", "connect-trace", "--lib"])
        .args(["--profile", "test"])
        .arg("--message-format=json-render-diagnostics")
        .args(["--", "--cfg", "fuzzing", "-Copt-level=1"])
        .args([
            "-Cpasses=sancov-module",
            "-Cllvm-args=-sanitizer-coverage-level=4",
        ])
        .arg("-Cllvm-args=-sanitizer-coverage-inline-8bit-counters")
        .arg("-Cllvm-args=-sanitizer-coverage-pc-table")
        .arg("-Cllvm-args=-sanitizer-coverage-trace-compares")
        .arg(format!("-Clink-arg={}", engine.display()))
        .arg("-Clink-arg=-lstdc++");
    let output = cargo.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the tests cannot be built");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok()?.executable);
    programs.next_back().context("cargo names no program")
}

/// Runs a target, and says how many inputs it took.
fn run(program: &Path, package: &Path, target: &str, seconds: u32) -> Result<String> {
    /// Line of libFuzzer with the number of inputs.
    const INPUTS: &str = "stat::number_of_executed_units: ";
    let folder = workspace::root().join("target/fuzz");
    let found = folder.join(target);
    fs::create_dir_all(&found).with_context(|| format!("create {}", found.display()))?;
    let log = folder.join(format!("{target}.log"));
    // The words are separated by spaces, which a path might have: all are relative to the package.
    let run = format!(
        "{target} -max_total_time={seconds} -max_len=32768 -timeout=10 -rss_limit_mb=512 -print_final_stats=1 \
         -artifact_prefix=../target/fuzz/{target}- ../target/fuzz/{target} {CORPUS}/{target}"
    );
    let file = File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .args(["fuzz::", "--nocapture", "--test-threads=1"])
        .env("CONNECT_TRACE_FUZZ", run)
        .current_dir(package)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let status = command
        .status()
        .with_context(|| format!("run `{}`", process::line(&command)))?;
    let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let inputs = text.lines().find_map(|line| line.strip_prefix(INPUTS));
    match inputs {
        Some(inputs) if status.success() => Ok(format!("{inputs} inputs in {seconds} s")),
        _ => {
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            bail!(
                "{status}; the last lines of {}:\n{}",
                log.display(),
                last.join("\n")
            )
        }
    }
}
