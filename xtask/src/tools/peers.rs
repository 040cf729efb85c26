//! Third-party tracers whose cost is compared with that of connect-trace. Only the guests of the benchmark have them:
//! bpftrace includes a compiler.

use std::path::PathBuf;

use anyhow::Result;

use super::guest_tools::{self, GuestTools};
use crate::arch::Arch;

/// Packages of bpftrace and of the libraries that it needs; the C library is the machine's own, which is not older, and
/// libelf and libz come with the guests' tools.
const PACKAGES: [&str; 19] = [
    "bpftrace",
    "libbpf1",
    "libbpfcc",
    "libbsd0",
    "libbz2-1.0",
    "libclang-cpp14",
    "libclang1-14",
    "libdw1",
    "libedit2",
    "libffi8",
    "libgcc-s1",
    "libicu72",
    "libllvm14",
    "liblzma5",
    "libmd0",
    "libstdc++6",
    "libtinfo6",
    "libxml2",
    "libz3-4",
];

/// The folder of the unpacked packages.
pub(crate) struct Peers {
    arch: Arch,
    folder: PathBuf,
    /// Programs of libbpf-tools.
    libbpf_tools: [PathBuf; 2],
}

impl Peers {
    /// Fetches the packages if they are missing.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let tools = GuestTools::ensure(arch)?;
        Ok(Self {
            arch,
            folder: guest_tools::unpacked_for(arch, "peers", &PACKAGES)?,
            libbpf_tools: ["tcpconnlat", "tcplife"].map(|name| tools.program(name)),
        })
    }

    /// Returns the programs; they need the libraries in [`Peers::libraries`].
    pub(crate) fn programs(&self) -> [PathBuf; 3] {
        let [tcpconnlat, tcplife] = self.libbpf_tools.clone();
        [self.folder.join("usr/bin/bpftrace"), tcpconnlat, tcplife]
    }

    /// Returns the folders of libraries, with those of the guests' tools.
    pub(crate) fn all_libraries(&self) -> Result<Vec<PathBuf>> {
        let tools = GuestTools::ensure(self.arch)?;
        let all = self.libraries().into_iter().chain(tools.libraries());
        Ok(all.filter(|folder| folder.is_dir()).collect())
    }

    /// Returns the folders of libraries that the machine may not have.
    pub(crate) fn libraries(&self) -> [PathBuf; 2] {
        guest_tools::libraries_for(self.arch, &self.folder)
    }
}
