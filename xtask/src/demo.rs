//! `cargo xtask demo`: shows on a real kernel how connect() becomes slow.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::guest::{Kit, Task};
use crate::tools;
use crate::tools::kernels::{Kernel, Series};
use crate::vm::pass_on;

/// The script that runs in the guest.
const SCRIPT: &str = include_str!("demo.sh");

/// First port of the range, below the kernel's default range, so that no other program uses these ports.
const FIRST_PORT: u16 = 20_000;

/// Watch connect() slow down in a virtual machine
///
/// A program connects to one destination from every port of a range, one connection after the other, while
/// connect-trace watches. The kernel hands out the even ports first; when they are used up, it searches long for each
/// odd one. The command fetches all that it needs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Series of the kernel to boot
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Architecture of the machine
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Number of ports in the range; half of them are odd
    #[arg(long, value_name = "N", default_value_t = 6000, value_parser = clap::value_parser!(u16).range(100..=28_000))]
    ports: u16,
}

pub(crate) fn demo(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernel = Kernel::of(options.kernel, options.arch)?;
    let kit = Kit::prepare(options.arch, true)?;
    let last_port = FIRST_PORT + options.ports - 1;
    eprintln!(
        "Kernel {}: connecting to one destination from each of the {} ports\n\
         {FIRST_PORT} to {last_port}, one connection after the other, all kept open.\n",
        kernel.release(),
        options.ports,
    );
    let range = format!("{FIRST_PORT}-{last_port}");
    let task = Task {
        command: ["sh", "-c", SCRIPT, "demo", &range]
            .map(str::to_owned)
            .to_vec(),
        ..Task::default()
    };
    let outcome = kit
        .run(&kernel, &task, &mut pass_on)
        .context("the demo did not finish")?;
    if outcome.status != 0 {
        bail!("the demo ended with status {}", outcome.status);
    }
    Ok(ExitCode::SUCCESS)
}
