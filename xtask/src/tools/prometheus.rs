//! Prometheus and its tool promtool, for tests of the metrics, rules and alerts: from Debian, unpacked and not installed.

use std::path::PathBuf;

use anyhow::Result;

use super::guest_tools;

/// Packages to fetch. Both programs are linked with the C library alone.
const PACKAGES: [&str; 1] = ["prometheus"];

/// The folder of the unpacked packages.
pub(crate) struct Prometheus {
    folder: PathBuf,
}

impl Prometheus {
    /// Fetches the packages if they are missing.
    pub(crate) fn ensure() -> Result<Self> {
        let folder = guest_tools::unpacked("prometheus", &PACKAGES)?;
        Ok(Self { folder })
    }

    /// Returns the server.
    pub(crate) fn server(&self) -> PathBuf {
        self.folder.join("usr/bin/prometheus")
    }
}
