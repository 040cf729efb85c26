//! `cargo xtask lint`: checks that do not run the code.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::tools::cargo_tool::CARGO_DENY;
use crate::tools::{self, nightly};
use crate::{process, workspace};

/// Check format, lints, documentation and dependencies
#[derive(clap::Args)]
pub(crate) struct Options {}

pub(crate) fn lint(_: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    Ok(if failures()?.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the checks, shows their output, and returns the names of the failed ones.
///
/// # Errors
/// If a tool cannot be fetched.
pub(crate) fn failures() -> Result<Vec<&'static str>> {
    nightly::ensure_component("clippy")?;
    let deny = CARGO_DENY.ensure()?;

    let mut checks: Vec<(&'static str, Command)> = vec![
        ("format", cargo(&["fmt", "--all", "--check"])),
        (
            "clippy",
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                // Tests are built without them.
                "--all-features",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        (
            "clippy without the default features",
            cargo(&[
                "clippy",
                "--package",
                "connect-trace",
                "--lib",
                "--bins",
                "--no-default-features",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        ("clippy of the eBPF programs", clippy_of_ebpf()),
        ("documentation", documentation()),
        ("licences, bans and sources", {
            let mut command = Command::new(&deny);
            command
                .args(["check", "licenses", "bans", "sources"])
                .current_dir(workspace::root());
            command
        }),
    ];
    let mut fetch = Command::new(&deny);
    fetch.args(["fetch", "db"]).current_dir(workspace::root());
    let advisories = process::output(&mut fetch);
    if advisories.is_ok() {
        let mut command = Command::new(&deny);
        command
            .args(["check", "advisories"])
            .current_dir(workspace::root());
        checks.push(("advisories", command));
    }

    let mut failed = Vec::new();
    for (name, command) in &mut checks {
        eprintln!("checking {name}");
        if let Err(error) = process::shown(command) {
            eprintln!("error: {error:#}");
            failed.push(*name);
        }
    }
    if advisories.is_err() {
        eprintln!("skipped advisories: their database cannot be fetched here");
    }
    if failed.is_empty() {
        eprintln!("{} checks passed", checks.len());
    } else {
        eprintln!(
            "{} of {} checks failed: {}",
            failed.len(),
            checks.len(),
            failed.join(", ")
        );
    }
    Ok(failed)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = workspace::cargo();
    command.args(arguments);
    command
}

/// Returns a command that checks the eBPF programs: the host's clippy sees an empty `main` in their place.
fn clippy_of_ebpf() -> Command {
    let mut command = Command::new("rustup");
    command.args([
        "run",
        nightly::NAME,
        "cargo",
        "clippy",
        "--package",
        "connect-trace-ebpf",
    ]);
    // With the profile of their build, the programs that it takes are built once.
    command.args([
        "--bins",
        "--release",
        "-Z",
        "build-std=core",
        "--target",
        "bpfel-unknown-none",
    ]);
    command
        .arg("--target-dir")
        .arg(workspace::root().join("target/bpf"));
    command
        .args(["--", "-D", "warnings"])
        .current_dir(workspace::root());
    command
        .env("RUSTFLAGS", r#"--cfg bpf_target_arch="x86_64""#)
        .env_remove("CARGO");
    command
}

fn documentation() -> Command {
    let mut command = cargo(&["doc", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}
