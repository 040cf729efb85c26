//! Shells, and a formatter of manual pages, for the tests of `connect-trace completions` and `connect-trace man`: from
//! Debian, unpacked and not installed.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result};

use super::guest_tools;

/// Packages to fetch, with a library of fish that few machines have; the others are the machine's own.
const PACKAGES: [&str; 6] = [
    "fish",
    "fish-common",
    "libpcre2-32-0",
    "mandoc",
    "zsh-common",
    "zsh-static",
];

/// Fetches the packages if they are missing.
pub(crate) fn ensure() -> Result<()> {
    let folder = guest_tools::unpacked("shells", &PACKAGES)?;
    // fish takes its functions from the folders beside it if both folders exist.
    let settings = folder.join("usr/etc");
    if !settings.exists() {
        symlink("../etc", &settings)
            .with_context(|| format!("cannot create {}", settings.display()))?;
    }
    Ok(())
}
