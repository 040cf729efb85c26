//! `connect-trace load` on every kernel: what each does with a range of ports, and that the command says so.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use connect_trace::kernel;
use serde_json::Value;

use crate::{
    Test,
    process::{Ended, Process},
};

pub const TESTS: &[Test<()>] = crate::tests![
    the_step_is_there_by_default_and_the_full_range_removes_it_from_6_8_on,
    a_kernel_without_udplite_says_which_has_it,
    threads_and_closing_use_no_port_twice,
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

/// Of the running kernel: 6 and 12 for 6.12.107.
pub fn version() -> Result<(u32, u32)> {
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
    let version = version()?;
    if version < (6, 1) {
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
    if version < (6, 8) {
        ensure!(first == 200 && warnings.contains("cannot help"), "{full}");
    } else {
        ensure!(first < 50 && !warnings.contains("cannot help"), "{full}");
    }
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
