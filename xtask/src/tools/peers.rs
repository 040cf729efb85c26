//! The tracers of others that the cost of ours is compared with. Only the guests of the benchmark have them:
//! bpftrace brings a compiler.

use std::path::PathBuf;

use anyhow::Result;

use super::guest_tools::{self, GuestTools};

/// The package of bpftrace, and those of the libraries that it needs; the C library is the machine's own,
/// which is not older, and libelf and libz are those of the guests' tools.
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

/// The folder where they lie unpacked.
pub(crate) struct Peers {
    folder: PathBuf,
    tcpconnlat: PathBuf,
}

impl Peers {
    /// Fetches them unless that was done before.
    pub(crate) fn ensure() -> Result<Self> {
        let tools = GuestTools::ensure()?;
        Ok(Self {
            folder: guest_tools::unpacked("peers", &PACKAGES)?,
            tcpconnlat: tools.program("tcpconnlat"),
        })
    }

    /// The programs; they need the libraries in [`Peers::libraries`].
    pub(crate) fn programs(&self) -> [PathBuf; 2] {
        [
            self.folder.join("usr/bin/bpftrace"),
            self.tcpconnlat.clone(),
        ]
    }

    /// Where libraries lie that the machine may not have.
    pub(crate) fn libraries(&self) -> [PathBuf; 2] {
        guest_tools::libraries(&self.folder)
    }
}
