//! Third-party programs for guests: a shell, and the tools that tests compare with.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debian::Suite;
use super::{lock, replace_folder, report, scratch_folder};
use crate::workspace;

/// Old enough for its programs to run with the libraries of any current machine.
const SUITE: &str = "bookworm";

/// Packages of the programs and of the libraries that they need.
const PACKAGES: [&str; 6] = [
    "busybox-static",
    "bpftool",
    "libbpf-tools",
    "libelf1",
    "zlib1g",
    "libcap2",
];

/// The folder of the unpacked packages.
pub(crate) struct GuestTools {
    folder: PathBuf,
}

impl GuestTools {
    /// Fetches the packages if they are missing.
    pub(crate) fn ensure() -> Result<Self> {
        let folder = unpacked("guest-tools", &PACKAGES)?;
        Ok(Self { folder })
    }

    /// Returns a static program with a shell and the usual commands.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join("bin/busybox")
    }

    /// Returns the other programs; they need the libraries in [`GuestTools::libraries`].
    pub(crate) fn programs(&self) -> [PathBuf; 2] {
        ["bpftool", "funclatency"].map(|name| self.program(name))
    }

    /// Returns the path of a program in these packages.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("usr/sbin").join(name)
    }

    /// Returns the folders of libraries that the machine may not have.
    pub(crate) fn libraries(&self) -> [PathBuf; 2] {
        libraries(&self.folder)
    }
}

/// Returns a folder of this name with these packages unpacked, and fetches them if they are missing.
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

/// Returns the library folders in a folder of unpacked packages.
pub(super) fn libraries(folder: &Path) -> [PathBuf; 2] {
    ["lib", "usr/lib"].map(|lib| folder.join(lib).join("x86_64-linux-gnu"))
}
