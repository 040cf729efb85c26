//! Shells, and a formatter of manual pages, for the tests of what `connect-trace completions` and
//! `connect-trace man` print: from Debian, unpacked and not installed.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result};

use super::guest_tools;

/// The packages. The libraries of fish and mandoc are the machine's own.
const PACKAGES: [&str; 5] = ["fish", "fish-common", "mandoc", "zsh-common", "zsh-static"];

/// Fetches them, unless that was done before.
pub(crate) fn ensure() -> Result<()> {
    let folder = guest_tools::unpacked("shells", &PACKAGES)?;
    // fish takes its functions from the folders beside it if both of them are there.
    let settings = folder.join("usr/etc");
    if !settings.exists() {
        symlink("../etc", &settings)
            .with_context(|| format!("cannot create {}", settings.display()))?;
    }
    Ok(())
}
