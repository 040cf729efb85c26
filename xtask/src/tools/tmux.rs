//! tmux, a terminal that programs can look at, for the tests of `connect-trace top`: from Debian, unpacked and not
//! installed.

use std::path::PathBuf;

use anyhow::Result;

use super::guest_tools;
use crate::arch::Arch;

/// Packages to fetch, with the libraries that guests do not have otherwise.
const PACKAGES: [&str; 4] = ["libevent-core-2.1-7", "libtinfo6", "libutempter0", "tmux"];

/// The folder of the unpacked packages.
pub(crate) struct Tmux {
    arch: Arch,
    folder: PathBuf,
}

impl Tmux {
    /// Fetches the packages if they are missing.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let folder = guest_tools::unpacked_for(arch, "tmux", &PACKAGES)?;
        Ok(Self { arch, folder })
    }

    /// Returns the program; it needs the libraries in [`Tmux::libraries`].
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("usr/bin/tmux")
    }

    /// Returns the folders of libraries that the machine may not have.
    pub(crate) fn libraries(&self) -> [PathBuf; 2] {
        guest_tools::libraries_for(self.arch, &self.folder)
    }
}
