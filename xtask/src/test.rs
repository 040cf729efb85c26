//! `cargo xtask test`: runs the tests on the host and the tests in guests, which need a kernel, at the same time.

mod durations;
mod guests;
mod host;
mod libtest;
mod lines;
mod tally;

use std::io::Write as _;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use self::durations::{Durations, Earlier};
use self::libtest::Log;
use self::tally::Tally;
use crate::arch::Arch;
use crate::tools::kernels::{self, Kernel};
use crate::vm::{KernelChoice, get_kernels};
use crate::{lint, tools};

/// Kernel of `--quick`: the most widely used of the tested kernels.
const QUICK: &str = "6.12";

/// Run all tests: on this machine, and in virtual machines with each kernel
///
/// Both run at the same time. Tests with the same outcome on any kernel run on the oldest and the newest kernel only. A
/// table shows the time of each part, and the last line gives the sum: passed, failed, skipped. A failure does not stop
/// the tests of the other kernels.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kernel to test on: a series such as 6.12, or a file; repeatable [default: 5.10, 6.1, 6.12, 6.18 and 7.3 on amd64, and
    /// 6.1, 6.12 and 7.3 on arm64]
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<KernelChoice>,
    /// Architecture of the kernels [default: amd64 if kernels are given, else each]
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Test on this machine and on 6.12 only, as before a commit
    #[arg(long, conflicts_with = "kernels")]
    quick: bool,
    /// Run the lints of `cargo xtask lint` too; a failed lint counts as a failed test
    #[arg(long)]
    lint: bool,
    /// Run only the tests for this machine
    #[arg(long, conflicts_with_all = ["kernels", "quick", "guests_only"])]
    unit_only: bool,
    /// Run only the tests in virtual machines
    #[arg(long)]
    guests_only: bool,
    /// Number of virtual machines that run at the same time [default: one more than CPUs, since tests wait at times]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    jobs: Option<u32>,
    /// Stop a virtual machine after this time without output from its tests; they count as failed
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    silence: u64,
    /// Arguments for the test program in the guests, such as part of a test's name
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

impl Options {
    fn jobs(&self) -> usize {
        match self.jobs {
            Some(jobs) => jobs as usize,
            None => thread::available_parallelism().map_or(1, NonZero::get) + 1,
        }
    }

    /// Returns true if neither an architecture nor a kernel was asked for.
    fn is_for_each_arch(&self) -> bool {
        self.arch.is_none() && self.kernels.is_empty()
    }

    fn kernels(&self) -> Result<Vec<Kernel>> {
        let arch = self.arch.unwrap_or_default();
        if self.quick {
            let quick = QUICK.parse().map_err(anyhow::Error::msg)?;
            return get_kernels(&[KernelChoice::Series(quick)], arch);
        }
        if !self.kernels.is_empty() {
            // The place of a kernel among them decides which tests run on it.
            let mut oldest_first = self.kernels.clone();
            oldest_first.sort();
            return get_kernels(&oldest_first, arch);
        }
        let all = Arch::ALL
            .into_iter()
            .filter(|&arch| self.arch.is_none_or(|only| arch == only));
        let all = all.flat_map(|arch| kernels::tested(arch).map(move |series| (series, arch)));
        all.map(|(series, arch)| Kernel::of(series, arch)).collect()
    }
}

/// Result of tests that ran together, on this machine or in one virtual machine.
struct Ran {
    /// `host`, or the kernel.
    origin: String,
    log: Log,
    /// A failure outside of the tests.
    error: Option<String>,
}

impl Ran {
    /// Returns the result of tests that this machine cannot build: they are counted as one that was skipped.
    fn skipped(origin: &str, reason: &anyhow::Error) -> Self {
        let line = format!("test every test on this kernel ... ignored ({reason})");
        print_line(origin, &line, None);
        let mut log = Log::default();
        log.line(&line);
        Self {
            origin: origin.to_owned(),
            log,
            error: None,
        }
    }

    /// Returns the result of tests that could not start.
    fn not(origin: &str, error: &anyhow::Error) -> Self {
        eprintln!("error: {error:#}");
        Self {
            origin: origin.to_owned(),
            log: Log::default(),
            error: Some(format!("{error:#}")),
        }
    }
}

pub(crate) fn test(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = if options.unit_only {
        Vec::new()
    } else {
        options.kernels()?
    };
    let parts = guests::parts(&kernels, &options.arguments);
    let earlier = Earlier::read();
    let with_host = !options.guests_only;
    if options.arguments.is_empty() {
        let host = with_host.then_some(host::PARTS).into_iter().flatten();
        let lint = options.lint.then_some(LINT);
        let build = (!parts.is_empty()).then_some(guests::BUILD);
        let guests = parts.iter().map(|part| (part.name.as_str(), part.usual));
        let all: Vec<_> = host.chain(lint).chain(build).chain(guests).collect();
        eprintln!("{}", earlier.estimate(&all));
    }

    let durations = Durations::default();
    let (lints, host, guests) = thread::scope(|scope| {
        let guests = scope.spawn(|| guests::test(options, &parts, &earlier, &durations));
        let lints = options
            .lint
            .then(|| durations.measure(LINT.0, lint::failures));
        let host = with_host
            .then(|| host::test(&durations).unwrap_or_else(|error| Ran::not("host", &error)));
        let guests = guests.join();
        let guests = guests.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (lints, host, guests)
    });
    let guests = guests.unwrap_or_else(|error| vec![Ran::not("guests", &error)]);

    let mut tally = Tally::default();
    match lints {
        None => {}
        Some(Ok(failed)) => failed
            .iter()
            .for_each(|name| tally.fail("lint", "", (*name).to_owned())),
        Some(Err(error)) => tally.fail("lint", "", format!("{error:#}")),
    }
    for ran in host.into_iter().chain(guests) {
        tally.add(&ran.origin, &ran.log);
        if let Some(error) = ran.error {
            tally.fail(&ran.origin, ran.log.current(), error);
        }
    }
    if options.arguments.is_empty() {
        earlier.write_with(&durations);
    }
    print!("\n{durations}\n{tally}");
    Ok(if tally.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Name of the lints in the table of durations, and their usual seconds.
const LINT: (&str, u64) = ("lint", 120);

/// Prints an output line of the tests, with its origin before it and its duration after it.
fn print_line(origin: &str, line: &str, took: Option<Duration>) {
    if line.is_empty() {
        return;
    }
    let took = took.map(|took| format!(" ({:.1} s)", took.as_secs_f64()));
    let took = took.unwrap_or_default();
    // Without a reader of stdout the tests continue.
    let _ = writeln!(std::io::stdout().lock(), "{origin:>11} | {line}{took}");
}
