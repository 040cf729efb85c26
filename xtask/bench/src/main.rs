//! Cost of connect-trace and of third-party tracers: `cargo xtask bench`, `bench-forecast`, `bench-load` and
//! `bench-parts`, in the virtual machines of `xtask`. docs/performance.md explains the figures.

mod execution;
mod figures;
mod forecast;
mod instructions;
mod load;
mod parts;
mod symbols;
mod targets;
mod tracers;

use std::process::ExitCode;

use clap::Parser;

/// Measure connect-trace and third-party tracers in virtual machines.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    max_term_width = 100
)]
enum Command {
    Bench(instructions::Options),
    BenchForecast(forecast::Options),
    BenchLoad(load::Options),
    BenchParts(parts::Options),
}

fn main() -> ExitCode {
    let command = Command::parse();
    xtask::run_command(|| match command {
        Command::Bench(options) => instructions::bench(&options),
        Command::BenchForecast(options) => forecast::forecast(&options),
        Command::BenchLoad(options) => load::load(&options),
        Command::BenchParts(options) => parts::parts(&options),
    })
}
