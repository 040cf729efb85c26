//! `cargo xtask bench`, `bench-load` and `bench-parts`, implemented by the crate in `xtask/bench`, which is built for
//! these commands only.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::{process, workspace};

/// Options of a benchmark; its own program parses them.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// See `--help`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTIONS"
    )]
    _arguments: Vec<OsString>,
}

/// Runs the benchmark program with xtask's command line, including the `--` that clap drops.
pub(crate) fn bench() -> Result<ExitCode> {
    let mut command = workspace::cargo();
    command
        // Paths on the command line are relative to the current folder.
        .current_dir(env::current_dir()?)
        .args(["run", "--quiet", "--package", "connect-trace-bench", "--"])
        .args(env::args_os().skip(1));
    // On success the program replaces this process: only an error returns.
    let error = command.exec();
    Err(anyhow!("cannot run `{}`: {error}", process::line(&command)))
}
