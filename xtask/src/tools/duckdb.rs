//! DuckDB, for the tests of recordings as a table: its package for Python, from PyPI, in a folder of its own.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::{lock, replace_folder, report, scratch_folder};
use crate::{process, workspace};

const VERSION: &str = "2.0.1";

/// Fetches the package if it is missing.
pub(crate) fn ensure() -> Result<()> {
    let _lock = lock()?;
    let folder = workspace::tools().join("duckdb");
    if folder.exists() {
        return Ok(());
    }
    report("duckdb", &format!("fetching {VERSION} from PyPI"));
    let unpacked = scratch_folder("duckdb")?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--only-binary", ":all:", "--disable-pip-version-check"])
        .arg("--target")
        .arg(&unpacked)
        .arg(format!("duckdb=={VERSION}"));
    process::output(&mut pip)
        .with_context(|| format!("cannot get DuckDB {VERSION}; it needs python3 with pip"))?;
    replace_folder(&unpacked, &folder)
}
