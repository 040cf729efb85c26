//! `cargo xtask run`: builds the tracer as the current user and runs it as root.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow, bail};

use crate::{process, tools, workspace};

/// Build connect-trace and run it as root
///
/// Only connect-trace itself runs as root, through sudo if necessary; the build does not. The exit status is
/// connect-trace's.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Arguments for connect-trace
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let target = workspace::root().join("target");
    let mut build = workspace::cargo();
    build
        .args([
            "build",
            "--release",
            "--package",
            "connect-trace",
            "--target-dir",
        ])
        .arg(&target);
    process::shown(&mut build)?;

    let program = target.join("release/connect-trace");
    let mut command = if process::is_root() {
        Command::new(&program)
    } else if process::is_installed("sudo") {
        let mut command = Command::new("sudo");
        command.arg("--").arg(&program);
        command
    } else {
        bail!(
            "connect-trace runs as root, and there is no sudo; as root, run {}",
            program.display()
        );
    };
    command.args(&options.arguments);
    // On success connect-trace replaces this process, with its signals and status: only an error returns.
    let error = command.exec();
    Err(anyhow!("cannot run `{}`: {error}", process::line(&command)))
}
