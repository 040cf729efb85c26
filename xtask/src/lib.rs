//! Tasks for developers of connect-trace: `cargo xtask COMMAND`.
//!
//! One module per command; `tools` fetches the tools that a command needs, `guest` runs virtual machines. The
//! benchmarks are a crate of their own (`xtask/bench`), which uses the public part of this one.

pub mod arch;
mod bench;
mod compare;
mod demo;
mod flame;
mod fuzz;
pub mod guest;
mod lint;
mod package;
mod process;
mod run;
mod setup;
pub mod stdout;
mod test;
pub mod tools;
pub mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Build tools, virtual machines, the demo and the tests of connect-trace.
///
/// Every command first fetches missing tools into .tools/.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
enum Command {
    Setup(setup::Options),
    Demo(demo::Options),
    Flame(flame::Options),
    Compare(compare::Options),
    Run(run::Options),
    Test(test::Options),
    Vm(vm::Options),
    Lint(lint::Options),
    Fuzz(fuzz::Options),
    Package(package::Options),
    /// Measure the instructions that connect-trace and other tracers add to a connect()
    #[command(disable_help_flag = true)]
    Bench(bench::Options),
    /// Compare forecasts of the end of a route's ports with the time at which they end
    #[command(disable_help_flag = true)]
    BenchForecast(bench::Options),
    /// Connect as fast as a virtual machine can, with the tracer and without
    #[command(disable_help_flag = true)]
    BenchLoad(bench::Options),
    /// Break the instructions that a tracer adds to a connect() down by part
    #[command(disable_help_flag = true)]
    BenchParts(bench::Options),
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let command = Command::parse();
    run_command(|| match command {
        Command::Setup(options) => setup::setup(&options),
        Command::Demo(options) => demo::demo(&options),
        Command::Flame(options) => flame::flame(&options),
        Command::Compare(options) => compare::compare(&options),
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::test(&options),
        Command::Vm(options) => vm::vm(&options),
        Command::Lint(options) => lint::lint(&options),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Package(options) => package::package(&options),
        Command::Bench(_)
        | Command::BenchForecast(_)
        | Command::BenchLoad(_)
        | Command::BenchParts(_) => bench::bench(),
    })
}

/// Runs a command in the workspace of the current folder, prints its error if it fails, and returns the exit status.
pub fn run_command(command: impl FnOnce() -> Result<ExitCode>) -> ExitCode {
    let result = workspace::find().and_then(|_| command());
    result.unwrap_or_else(|error| {
        if stdout::Refused::is_closed(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
