//! The nightly Rust compiler: only it can build the core library for the eBPF target.

use std::fmt;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::report;
use crate::process;

/// Name of the toolchain for rustup.
pub(crate) const NAME: &str = "nightly";

/// Versions of an installed compiler.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Major and minor version, such as `1.97`.
    pub(crate) version: (u32, u32),
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        write!(f, "rustc {major}.{minor} with LLVM {}", self.llvm)
    }
}

/// Returns the nightly compiler; installs it if it is missing.
pub(crate) fn ensure() -> Result<Compiler> {
    let toolchains = process::output(Command::new("rustup").args(["toolchain", "list"]))
        .context("a nightly compiler is installed by rustup; see https://rustup.rs to get it")?;
    // Accept "nightly-x86_64-unknown-linux-gnu", but not "nightly-2026-05-20-…".
    let is_nightly = |line: &str| {
        line.strip_prefix("nightly-")
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let present = toolchains.lines().any(is_nightly);
    if !present {
        report("nightly", "installing the toolchain with rustup");
        process::shown(Command::new("rustup").args([
            "toolchain",
            "install",
            NAME,
            "--profile",
            "minimal",
        ]))
        .context("to see why, run: rustup toolchain install nightly --profile minimal")?;
    }
    let text = process::output(&mut rustc(&["-vV"]))?;
    let compiler = parse_version(&text)
        .with_context(|| format!("`rustc +{NAME} -vV` says nothing that is understood:\n{text}"))?;
    Ok(compiler)
}

/// Installs a component of the toolchain if it is missing.
pub(crate) fn ensure_component(component: &str) -> Result<()> {
    let list = ["component", "list", "--toolchain", NAME, "--installed"];
    let installed = process::output(Command::new("rustup").args(list))?;
    if installed.lines().any(|line| line.starts_with(component)) {
        return Ok(());
    }
    report(component, "adding it to nightly with rustup");
    let add = ["component", "add", component, "--toolchain", NAME];
    process::shown(Command::new("rustup").args(add))
}

/// Returns a command for nightly's rustc. `rustup run` works whichever toolchain runs xtask.
pub(crate) fn rustc(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NAME, "rustc"]).args(arguments);
    command
}

fn parse_version(text: &str) -> Option<Compiler> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
    };
    let mut release = value("release")?.split('.');
    let version = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
    let llvm = value("LLVM version")?.split('.').next()?.parse().ok()?;
    Some(Compiler { version, llvm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_rustc() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(
            parse_version(text),
            Some(Compiler {
                version: (1, 97),
                llvm: 22
            })
        );
        assert_eq!(parse_version("rustc 1.97.0"), None);
    }
}
