//! Tests on a whole system: `cargo xtask test` runs this program as root in virtual machines that boot a Debian with
//! systemd as PID 1.
//!
//! `debian` tests the system itself, `package` the package's life from installation to purge, `service` the service that
//! it installs, and `container` the image. `metrics` is a helper.

mod container;
mod debian;
mod metrics;
mod package;
#[path = "../guest/process.rs"]
#[allow(dead_code, reason = "the tests on a kernel use more of it")]
mod process;
mod service;

use std::{env, process::ExitCode};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Trial};

/// Variable that is 1 if the tests may take the whole machine for themselves.
const VARIABLE: &str = "CONNECT_TRACE_GUEST";

const NOT_A_GUEST: &str = "takes root in a virtual machine of its own: run `cargo xtask test`";

/// The tests, in the order in which they run.
const TESTS: &[(&str, &[Test])] = &[
    ("debian", debian::TESTS),
    ("container", container::TESTS),
    ("service", service::TESTS),
    ("package", package::TESTS),
];

/// A test and its name.
type Test = (&'static str, fn() -> Result<()>);

/// Lists the tests of a module, each the name of a function.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name)),+] };
}
use tests;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    if words.next().is_some_and(|word| word == container::ENTER) {
        return match container::enter(words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // There is one service and one list of packages.
    arguments.test_threads = Some(1);
    let trials = TESTS.iter().flat_map(|&(module, tests)| {
        let trials = tests.iter();
        trials.map(move |&(name, run)| trial(format!("{module}::{name}"), run))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn trial(name: String, run: fn() -> Result<()>) -> Trial {
    Trial::ignorable_test(name, move || {
        if env::var_os(VARIABLE).is_none_or(|value| value != "1") {
            return Ok(Completion::ignored_with(NOT_A_GUEST));
        }
        match run() {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => Err(format!("{error:#}").into()),
        }
    })
}
