//! `connect-trace load` on every kernel: the kernel's use of a range of ports, and the command's report of it.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use connect_trace::kernel;
use serde_json::Value;

use crate::{
    Test,
    process::{Ended, Process},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        the_step_is_there_by_default_and_the_full_range_removes_it_from_6_8_on,
        a_kernel_without_udplite_says_which_has_it,
        threads_and_closing_use_no_port_twice,
    ],
];

fn load(arguments: &str) -> Result<Ended> {
    let mut command = Command::new("connect-trace");
    command.arg("load").args(arguments.split(' ')).args([
        "--range",
        "20000-20399",
        "--format",
        "json",
    ]);
    Process::start(command)?.end()
}

fn run_of(arguments: &str) -> Result<Value> {
    let ended = load(arguments)?;
    serde_json::from_str(&ended.stdout).with_context(|| ended.to_string())
}

/// Effect of `IP_LOCAL_PORT_RANGE` over the whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullRange {
    /// The kernel refuses it.
    Refused,
    /// As without the option, half of the ports come first.
    KeepsStep,
    /// Ports of both parities are taken from the start.
    RemovesStep,
}

impl FullRange {
    /// Returns the effect on the running kernel.
    pub fn here() -> Result<Self> {
        match version()? {
            (5, 10) => Ok(Self::Refused),
            (6, 1) => Ok(Self::KeepsStep),
            version if version >= (6, 8) => Ok(Self::RemovesStep),
            version => bail!("what is expected of {version:?} is not written down"),
        }
    }

    /// Checks the number of connections before the first odd port, for a range of `ports`.
    #[track_caller]
    pub fn assert_first_pass(self, connections: u64, ports: u64, shown: &Value) {
        match self {
            Self::Refused => panic!("it should have been refused: {shown}"),
            Self::KeepsStep => assert_eq!(connections, ports / 2, "{shown}"),
            Self::RemovesStep => assert!(connections < 50, "{connections}: {shown}"),
        }
    }
}

/// Returns the version of the running kernel: 6 and 12 for 6.12.107.
fn version() -> Result<(u32, u32)> {
    let release = kernel::release();
    let mut numbers = release.split('.').map_while(|word| word.parse().ok());
    let version = numbers.next().zip(numbers.next());
    version.with_context(|| format!("no version: {release}"))
}

fn the_step_is_there_by_default_and_the_full_range_removes_it_from_6_8_on(_: ()) -> Result<()> {
    let default = run_of("default")?;
    ensure!(
        default["first_pass_connections"] == 200 && default["errors"] == 0,
        "half of the ports are of one parity: {default}"
    );
    let expected = FullRange::here()?;
    if expected == FullRange::Refused {
        let ended = load("full-range")?;
        ensure!(
            ended.status.code() == Some(1) && ended.stderr.contains("6.1.32"),
            "{ended}"
        );
        return Ok(());
    }
    let full = run_of("full-range")?;
    let first = full["first_pass_connections"].as_u64();
    let first = first.with_context(|| full.to_string())?;
    let warnings = full["warnings"].to_string();
    expected.assert_first_pass(first, 400, &full);
    let warned = warnings.contains("cannot help");
    ensure!(warned == (expected == FullRange::KeepsStep), "{full}");
    Ok(())
}

fn a_kernel_without_udplite_says_which_has_it(_: ()) -> Result<()> {
    if version()? < (7, 1) {
        let run = run_of("default --protocol udplite")?;
        ensure!(run["errors"] == 0 && run["protocol"] == "udplite", "{run}");
    } else {
        let ended = load("default --protocol udplite")?;
        ensure!(
            ended.status.code() == Some(1) && ended.stderr.contains("up to 7.0"),
            "{ended}"
        );
    }
    Ok(())
}

fn threads_and_closing_use_no_port_twice(_: ()) -> Result<()> {
    let run = run_of("addresses -6 --threads 4")?;
    let count = |group: &str| run[group]["connect"]["count"].as_u64().unwrap_or(0);
    ensure!(count("even") == 400 && count("odd") == 400, "{run}");
    let run = run_of("default --close --until-occupancy 5% -c 100")?;
    ensure!(run["errors"] == 0 && run["most_held"] == 20, "{run}");
    Ok(())
}
