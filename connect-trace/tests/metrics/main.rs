//! The metrics of `connect-trace serve`: their text in both formats, the number of their series, their documentation,
//! and the rules and the dashboard that are made of them. The tests of the rules and of the text need Prometheus' tool
//! promtool.

mod dashboard;
mod documentation;
mod exposition;
#[path = "../fixtures/folder.rs"]
mod folder;
mod names;
mod promtool;
mod reading;
mod series;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Trial};

/// A test and its name.
type Test = (&'static str, fn() -> Result<()>);

macro_rules! tests {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name)),+] };
}
use tests;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let without = [
        exposition::TESTS,
        series::TESTS,
        documentation::TESTS,
        names::TESTS,
        dashboard::TESTS,
    ];
    let without = without.into_iter().flatten().map(|&(name, run)| {
        Trial::test(name, move || {
            run().map_err(|error| format!("{error:#}").into())
        })
    });
    let with = promtool::TESTS.iter().map(|&(name, run)| {
        Trial::ignorable_test(name, move || match promtool::find() {
            Err(reason) => Ok(Completion::ignored_with(reason)),
            Ok(_) => match run() {
                Ok(()) => Ok(Completion::Completed),
                Err(error) => Err(format!("{error:#}").into()),
            },
        })
    });
    libtest_mimic::run(&arguments, without.chain(with).collect()).exit_code()
}
