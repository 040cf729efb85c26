//! `cargo xtask bench`: measures the instructions that connect-trace and third-party tracers add to a connect().

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;

use xtask::guest::{Hardware, Kit, Task};
use xtask::tools;
use xtask::tools::kernels::Kernel;
use xtask::vm::{AllKernels, get_kernels};

use crate::figures::{self, Figures};
use crate::{targets, tracers};

/// The scripts that run in the guest.
const SCRIPT: &str = concat!(include_str!("tracer.sh"), include_str!("guest.sh"));

/// Measure the instructions that connect-trace and other tracers add to a connect()
///
/// Each kernel boots in a virtual machine whose one CPU's clock counts instructions, a nanosecond each, and connects
/// beside one tracer after the other; docs/performance.md explains the figures. Takes three to five minutes for each
/// kernel with `--rounds 24`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    kernels: AllKernels,
    /// Rounds of 2,000 connections with the default trace: 120 last for a minute of the machine's time
    #[arg(long, value_name = "NUMBER", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure only tracers with this text in their names, and connections without a tracer; repeatable
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Write the figures to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Compare with the figures of an earlier run; the exit status is 1 if one differs by over 1 %
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

pub(crate) fn bench(options: &Options) -> Result<ExitCode> {
    tools::ensure_for_build()?;
    let earlier = match &options.compare {
        Some(path) => Some(read(path)?),
        None => None,
    };
    let kernels = get_kernels(&options.kernels.choices, options.kernels.arch)?;
    let kit = Kit::prepare(options.kernels.arch, true)?.with_peers()?;
    let mut all = Vec::new();
    for kernel in &kernels {
        eprintln!("measuring on {}", kernel.release());
        let figures =
            measure(&kit, kernel, options).with_context(|| format!("on kernel {}", kernel.name))?;
        print!("{figures}");
        all.push(figures);
    }
    let targets = targets::table(&all);
    print!("{targets}");
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&json!({ "kernels": all }))?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Some(earlier) = earlier else {
        return Ok(ExitCode::SUCCESS);
    };
    let (line, agree) = figures::compare(&all, &earlier);
    println!("{line}");
    Ok(if agree {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the figures of an earlier run.
fn read(path: &PathBuf) -> Result<Vec<Figures>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut json: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    serde_json::from_value(json["kernels"].take())
        .with_context(|| format!("{} is not from `cargo xtask bench --json`", path.display()))
}

/// Measures the figures of one kernel.
fn measure(kit: &Kit, kernel: &Kernel, options: &Options) -> Result<Figures> {
    let tracers = tracers::lines(options.rounds, &options.only);
    let task = Task {
        command: ["sh", "-c", SCRIPT, "sh", &tracers]
            .map(str::to_owned)
            .to_vec(),
        hardware: Hardware {
            cpus: 1,
            deterministic: true,
            ..Hardware::default()
        },
        ..Task::default()
    };
    let mut lines = Vec::new();
    kit.run_well(kernel, &task, |bytes| {
        lines.extend_from_slice(bytes);
        // Each line is for a finished tracer.
        for line in String::from_utf8_lossy(bytes).lines() {
            if let Some(name) = line.split('\t').nth(1) {
                eprintln!("  {name}");
            }
        }
        Ok(())
    })?;
    let lines = String::from_utf8(lines).context("what the guest printed is no text")?;
    Figures::parse(&kernel.name, &lines)
}
