//! Tests that run on the host's own kernel.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::durations::Durations;
use super::libtest::Log;
use super::{Ran, print_line};
use crate::arch::Arch;
use crate::tools::{browser, duckdb, prometheus::Prometheus, shells, tmux::Tmux};
use crate::{process, workspace};

/// Variable that gives the tests of the page the browser's path, or the reason to skip them.
const BROWSER: &str = "CONNECT_TRACE_BROWSER";
const NO_BROWSER: &str = "CONNECT_TRACE_NO_BROWSER";

/// Parts of a run on the host in the table of durations, and their usual seconds.
pub(super) const PARTS: [(&str, u64); 2] = [("host, build", 120), ("host", 60)];

/// Builds and runs the tests on the host.
pub(super) fn test(durations: &Durations) -> Result<Ran> {
    let [(build, _), (run, _)] = PARTS;
    let cargo = || {
        let mut command = workspace::cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        command
    };
    durations.measure(build, || process::shown(cargo().arg("--no-run")))?;

    let mut command = cargo();
    command.stdout(Stdio::piped());
    match browser::ensure() {
        Ok(script) => command.env(BROWSER, script),
        Err(error) => command.env(NO_BROWSER, format!("{error:#}")),
    };
    // The tests of metrics and rules look for promtool there, and skip what needs it if it is missing.
    if let Err(error) = Prometheus::ensure() {
        eprintln!("no promtool: {error:#}");
    }
    // The tests of completions look for shells there, and skip those that are missing.
    if let Err(error) = shells::ensure() {
        eprintln!("no shells: {error:#}");
    }
    // The tests of top look for tmux there.
    if let Err(error) = Tmux::ensure(Arch::HOST) {
        eprintln!("no tmux: {error:#}");
    }
    // So do the tests of recordings as a table.
    if let Err(error) = duckdb::ensure() {
        eprintln!("no DuckDB: {error:#}");
    }
    eprintln!("testing on this machine: {}", process::line(&command));
    durations.measure(run, || {
        let mut child = command.spawn().context("cannot run cargo")?;
        let mut log = Log::default();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line.context("cannot read the output of cargo test")?;
                if log.line(&line) {
                    print_line("host", &line, None);
                }
            }
        }
        let status = child.wait().context("cannot wait for cargo test")?;
        let error = if !log.is_complete() {
            Some("`cargo test` gave no result that accounts for all tests".to_owned())
        } else if !status.success() && !log.failed() {
            Some(format!("`cargo test` failed ({status})"))
        } else {
            None
        };
        Ok(Ran {
            origin: "host".to_owned(),
            log,
            error: error.map(|error| format!("{error}; see its messages")),
        })
    })
}
