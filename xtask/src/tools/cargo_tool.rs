//! Programs from crates.io that xtask runs as they are.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{lock, report};
use crate::{process, workspace};

/// A program of a crate of the same name.
pub(crate) struct CargoTool {
    /// Name of both.
    pub(crate) name: &'static str,
    version: &'static str,
    /// Time that building it takes.
    takes: &'static str,
}

/// Checks the licences and origins of the crates that we depend on.
pub(crate) const CARGO_DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
    takes: "some minutes",
};

/// Writes the names and versions of all crates in a program into the program.
pub(crate) const CARGO_AUDITABLE: CargoTool = CargoTool {
    name: "cargo-auditable",
    version: "0.7.7",
    takes: "some seconds",
};

/// Lists the crates of a program, with licences and checksums, in the format of CycloneDX.
pub(crate) const CARGO_CYCLONEDX: CargoTool = CargoTool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
    takes: "half a minute",
};

impl CargoTool {
    /// Returns the program; builds it into a folder below `.tools/` if it is missing.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        let Self {
            name,
            version,
            takes,
        } = self;
        let _lock = lock()?;
        let folder = workspace::tools().join(name);
        let program = folder.join("bin").join(name);
        if !program.exists() {
            report(name, &format!("building {version} ({takes}, once)"));
            // Without optimisation it takes half the time to build, and runs no slower.
            let package = format!("{name}@{version}");
            let mut install = workspace::cargo();
            install
                .args([
                    "install", "--quiet", "--debug", "--locked", &package, "--root",
                ])
                .arg(&folder)
                .env("CARGO_PROFILE_DEV_DEBUG", "0");
            process::shown(&mut install)
                .with_context(|| format!("cannot build {name} {version}"))?;
        }
        Ok(program)
    }
}
