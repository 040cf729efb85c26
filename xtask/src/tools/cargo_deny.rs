//! cargo-deny, which checks the licences and origins of the crates that we depend on.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{lock, report};
use crate::{process, workspace};

const VERSION: &str = "0.20.2";

/// Returns the program; builds it into `.tools/cargo-deny/` if it is missing.
pub(crate) fn ensure() -> Result<PathBuf> {
    let _lock = lock()?;
    let folder = workspace::tools().join("cargo-deny");
    let program = folder.join("bin/cargo-deny");
    if !program.exists() {
        report(
            "cargo-deny",
            &format!("building {VERSION} (some minutes, once)"),
        );
        // Without optimisation it takes half the time to build, and runs no slower.
        let package = format!("cargo-deny@{VERSION}");
        let mut install = workspace::cargo();
        install
            .args([
                "install", "--quiet", "--debug", "--locked", &package, "--root",
            ])
            .arg(&folder);
        process::shown(&mut install)
            .with_context(|| format!("cannot build cargo-deny {VERSION}"))?;
    }
    Ok(program)
}
