//! The programs of others that guests need: a shell, and the peers that tests compare with.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debian::Suite;
use super::{lock, replace_folder, report, scratch_folder};
use crate::workspace;

/// Old enough that its programs run with the libraries of any machine of today.
const SUITE: &str = "bookworm";

/// The programs' packages, and those of the libraries that they need.
const PACKAGES: [&str; 6] = [
    "busybox-static",
    "bpftool",
    "libbpf-tools",
    "libelf1",
    "zlib1g",
    "libcap2",
];

/// The folder where they lie unpacked.
pub(crate) struct GuestTools {
    folder: PathBuf,
}

impl GuestTools {
    /// Fetches them unless that was done before.
    pub(crate) fn ensure() -> Result<Self> {
        let folder = unpacked("guest-tools", &PACKAGES)?;
        Ok(Self { folder })
    }

    /// A shell and the usual commands in one static program.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join("bin/busybox")
    }

    /// The other programs; they need the libraries in [`GuestTools::libraries`].
    pub(crate) fn programs(&self) -> [PathBuf; 2] {
        ["bpftool", "funclatency"].map(|name| self.program(name))
    }

    /// A program of these packages.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("usr/sbin").join(name)
    }

    /// Where libraries lie that the machine may not have.
    pub(crate) fn libraries(&self) -> [PathBuf; 2] {
        libraries(&self.folder)
    }
}

/// A folder of this name with these packages unpacked; they are fetched unless that was done before.
pub(super) fn unpacked(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let _lock = lock()?;
    let folder = workspace::tools().join(name);
    if !folder.exists() {
        report(
            &name.replace('-', " "),
            &format!("fetching {} from Debian's {SUITE}", packages.join(", ")),
        );
        let unpacked = scratch_folder(name)?;
        Suite::open(SUITE)?.unpack(packages, &unpacked)?;
        replace_folder(&unpacked, &folder)?;
    }
    Ok(folder)
}

/// Where libraries lie in a folder of unpacked packages.
pub(super) fn libraries(folder: &Path) -> [PathBuf; 2] {
    ["lib", "usr/lib"].map(|lib| folder.join(lib).join("x86_64-linux-gnu"))
}
