//! `cargo xtask flame`: flame graphs of an exhausted range of ports, on real kernels.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::guest::{Kit, Task};
use crate::tools;
use crate::vm::{AllKernels, get_kernels, pass_on};

/// File that the guest draws.
const DRAWN: &str = "/root/connect-flame.svg";

/// First port of the range, below the kernel's default range, so that no other program uses these ports.
const FIRST_PORT: u16 = 20_000;

/// Draw the flame graph of an exhausted range of ports, on each kernel
///
/// In a virtual machine for each kernel, a program connects to one destination from every port of a range, and more often
/// than there are ports, while connect-trace takes kernel stacks. The drawings are FOLDER/flame-KERNEL.svg, and the
/// summaries are on stderr: the share of the port search in the drawing, and by the times of the same calls.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    kernels: AllKernels,
    /// Number of ports in the range; half of them are odd
    #[arg(long, value_name = "N", default_value_t = 6000, value_parser = clap::value_parser!(u16).range(100..=28_000))]
    ports: u16,
    /// Folder for the drawings, which may be new
    #[arg(long, value_name = "FOLDER", default_value = "target/flame")]
    folder: PathBuf,
}

pub(crate) fn flame(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let kernels = get_kernels(&options.kernels.choices, options.kernels.arch)?;
    let kit = Kit::prepare(options.kernels.arch, true)?;
    let range = format!("{FIRST_PORT}-{}", FIRST_PORT + options.ports - 1);
    let extra = options.ports / 10;
    let truth = format!("truth exhaust --quiet --set-range {range} --extra {extra}");
    let command = format!("connect-trace flame -- {truth}");
    let task = Task {
        command: command.split(' ').map(str::to_owned).collect(),
        outputs: vec![DRAWN.to_owned()],
        ..Task::default()
    };
    let folder = &options.folder;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for kernel in &kernels {
        let outcome = kit
            .run(kernel, &task, &mut pass_on)
            .with_context(|| format!("kernel {}: no flame graph", kernel.name))?;
        if outcome.status != 0 {
            bail!(
                "kernel {}: the trace ended with status {}",
                kernel.name,
                outcome.status
            );
        }
        let drawn = outcome.outputs.into_iter().next().context(DRAWN)?;
        let drawn = drawn.map_err(|reason| anyhow!("cannot copy {DRAWN} out: {reason}"))?;
        let file = folder.join(format!("flame-{}.svg", kernel.name));
        fs::write(&file, drawn).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("{}\n", file.display());
    }
    Ok(ExitCode::SUCCESS)
}
