//! `cargo xtask bench`, `bench-load` and `bench-parts`, which the crate in `xtask/bench` does: it is built for
//! these commands only.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::{process, workspace};

/// Options of a benchmark, which its own program reads.
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

/// Runs the benchmarks' program with the command line of this one, `--` included, which clap drops.
pub(crate) fn bench() -> Result<ExitCode> {
    let mut command = workspace::cargo();
    command
        // Files are named from there.
        .current_dir(env::current_dir()?)
        .args(["run", "--quiet", "--package", "connect-trace-bench", "--"])
        .args(env::args_os().skip(1));
    // Only an error returns: otherwise the program takes our place.
    let error = command.exec();
    Err(anyhow!("cannot run `{}`: {error}", process::line(&command)))
}
