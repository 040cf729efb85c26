//! The system that the other tests install the service on.

use std::{fs, process::Command};

use anyhow::Result;

use crate::{
    Test,
    process::{Ended, Process},
};

pub const TESTS: &[Test] = crate::tests![
    systemd_is_the_first_process_and_all_of_it_runs,
    the_list_of_packages_is_in_order,
];

/// Runs a program with these arguments.
pub fn run(program: &str, arguments: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments);
    Process::start(command)?.end()
}

/// Runs a program that must succeed, and returns its standard output.
pub fn output(line: &str) -> Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    Ok(run(words[0], &words[1..])?.successful()?.stdout)
}

fn systemd_is_the_first_process_and_all_of_it_runs() -> Result<()> {
    assert_eq!(fs::read_to_string("/proc/1/comm")?, "systemd\n");
    let state = run("systemctl", &["is-system-running", "--wait"])?;
    let failed = output("systemctl list-units --state=failed --no-legend --no-pager")?;
    assert_eq!(state.stdout, "running\n", "{failed}");
    Ok(())
}

fn the_list_of_packages_is_in_order() -> Result<()> {
    assert_eq!(output("dpkg --audit")?, "");
    output("apt-get check")?;
    Ok(())
}
