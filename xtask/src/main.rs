//! What people run on connect-trace's own tree: `cargo xtask COMMAND`.
//!
//! One module per command; `tools` fetches what a command needs, `guest` runs virtual machines.

mod article;
mod bench;
mod compare;
mod demo;
mod guest;
mod lint;
mod process;
mod run;
mod setup;
mod stdout;
mod test;
mod tools;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Build tools, virtual machines, the demo and the tests of connect-trace.
///
/// Every command first gets what it needs and does not find: it lies in .tools/ afterwards.
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
    Compare(compare::Options),
    Run(run::Options),
    Test(test::Options),
    Vm(vm::Options),
    Lint(lint::Options),
    Article(article::Options),
    Bench(bench::Options),
    BenchLoad(bench::load::Options),
    Listing(bench::listing::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(options) => setup::setup(&options),
        Command::Demo(options) => demo::demo(&options),
        Command::Compare(options) => compare::compare(&options),
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::test(&options),
        Command::Vm(options) => vm::vm(&options),
        Command::Lint(options) => lint::lint(&options),
        Command::Article(options) => article::article(&options),
        Command::Bench(options) => bench::bench(&options),
        Command::BenchLoad(options) => bench::load::load(&options),
        Command::Listing(options) => bench::listing::listing(&options),
    };
    result.unwrap_or_else(|error| {
        if stdout::Refused::is_closed(&error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
