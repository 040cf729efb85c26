//! Third-party programs for guests: a shell, and the tools that tests compare with.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debian::Suite;
use super::{lock, replace_folder, report, scratch_folder};
use crate::arch::Arch;
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

/// Packages of `ss` and of the libraries that it needs.
const SS_PACKAGES: [&str; 14] = [
    "iproute2",
    "libbsd0",
    "libcap2",
    "libcom-err2",
    "libgssapi-krb5-2",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libmd0",
    "libmnl0",
    "libpcre2-8-0",
    "libselinux1",
    "libtirpc3",
];

/// The folders of the unpacked packages.
pub(crate) struct GuestTools {
    arch: Arch,
    folder: PathBuf,
    ss: PathBuf,
    /// The C library, for an architecture of which the machine has none.
    c_library: Option<PathBuf>,
}

impl GuestTools {
    /// Fetches the packages if they are missing.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let c_library = (arch != Arch::HOST).then(|| unpacked_for(arch, "libc", &["libc6"]));
        Ok(Self {
            arch,
            folder: unpacked_for(arch, "guest-tools", &PACKAGES)?,
            ss: unpacked_for(arch, "ss", &SS_PACKAGES)?,
            c_library: c_library.transpose()?,
        })
    }

    /// Returns a static program with a shell and the usual commands.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.folder.join("bin/busybox")
    }

    /// Returns the other programs; they need the libraries in [`GuestTools::libraries`].
    pub(crate) fn programs(&self) -> [PathBuf; 3] {
        let [bpftool, funclatency] = ["bpftool", "funclatency"].map(|name| self.program(name));
        [bpftool, funclatency, self.ss.join("bin/ss")]
    }

    /// Returns the path of a program in these packages.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("usr/sbin").join(name)
    }

    /// Returns the folders of libraries that the machine may not have.
    pub(crate) fn libraries(&self) -> Vec<PathBuf> {
        [&self.folder, &self.ss]
            .into_iter()
            .chain(&self.c_library)
            .flat_map(|folder| libraries_for(self.arch, folder))
            .collect()
    }
}

/// Returns a folder of this name with these packages unpacked, and fetches them if they are missing.
pub(super) fn unpacked(name: &str, packages: &[&str]) -> Result<PathBuf> {
    unpacked_for(Arch::HOST, name, packages)
}

/// Returns a folder of this name with these packages for an architecture unpacked, and fetches them if they are missing.
pub(super) fn unpacked_for(arch: Arch, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let _lock = lock()?;
    let folder = workspace::tools_of(arch).join(name);
    if !folder.exists() {
        report(
            &arch.named(&name.replace('-', " ")),
            &format!("fetching {} from Debian's {SUITE}", packages.join(", ")),
        );
        let unpacked = scratch_folder(name)?;
        Suite::open(SUITE, arch)?.unpack(packages, &unpacked)?;
        replace_folder(&unpacked, &folder)?;
    }
    Ok(folder)
}

/// Returns the library folders in a folder of unpacked packages.
pub(super) fn libraries(folder: &Path) -> [PathBuf; 2] {
    libraries_for(Arch::HOST, folder)
}

/// Returns the library folders in a folder of unpacked packages for an architecture.
pub(super) fn libraries_for(arch: Arch, folder: &Path) -> [PathBuf; 2] {
    ["lib", "usr/lib"].map(|lib| folder.join(lib).join(arch.libraries()))
}
