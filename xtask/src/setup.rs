//! `cargo xtask setup`: fetches missing tools.

use std::process::ExitCode;

use anyhow::Result;

use crate::arch::Arch;
use crate::guest::system::System;
use crate::tools::cargo_tool::{CARGO_AUDITABLE, CARGO_CYCLONEDX, CARGO_DENY};
use crate::tools::checkers::Checkers;
use crate::tools::guest_clients::GuestClients;
use crate::tools::guest_tools::GuestTools;
use crate::tools::kernels::{self, Kernel};
use crate::tools::musl::Musl;
use crate::tools::prometheus::Prometheus;
use crate::tools::tmux::Tmux;
use crate::tools::{self, browser, duckdb, libfuzzer, qemu, report, shells, skopeo};

/// Get the tools that the build needs
///
/// Fetches a nightly Rust compiler, the source of its library and bpf-linker if they are missing. The other commands do
/// this themselves.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also get the tools of demo, test, vm, lint and package: QEMU, kernels, cargo-deny, a browser, shells, DuckDB,
    /// Prometheus and others
    #[arg(long)]
    all: bool,
}

pub(crate) fn setup(options: &Options) -> Result<ExitCode> {
    let build = tools::ensure_for_build()?;
    report("nightly", &build.nightly);
    report("rust-src", "present");
    report("bpf-linker", build.bpf_linker);
    if options.all {
        for arch in Arch::ALL {
            qemu::ensure(arch)?;
            report(&arch.named("qemu"), "present");
            GuestTools::ensure(arch)?;
            GuestClients::ensure(arch)?;
            Tmux::ensure(arch)?;
            report(&arch.named("guest tools"), "present");
            Musl::ensure(arch)?;
            for series in kernels::tested(arch) {
                let kernel = Kernel::of(series, arch)?;
                report("kernel", &format!("{}: {}", kernel.name, kernel.release()));
            }
        }
        System::ensure()?;
        report("system", "present");
        browser::ensure()?;
        report("browser", "present");
        shells::ensure()?;
        report("shells", "present");
        Prometheus::ensure()?;
        report("prometheus", "present");
        duckdb::ensure()?;
        report("duckdb", "present");
        for tool in [CARGO_DENY, CARGO_AUDITABLE, CARGO_CYCLONEDX] {
            tool.ensure()?;
            report(tool.name, "present");
        }
        libfuzzer::ensure()?;
        report("libfuzzer", "present");
        Checkers::ensure()?;
        skopeo::command()?;
        report("packages", "tools present");
    }
    Ok(ExitCode::SUCCESS)
}
