//! Real clients for the guests' tests, which compare the clients' own counts with the tracer's, and a server for them.
//! Only guests that need them have them: they are several times the size of all other files.

use std::path::PathBuf;

use anyhow::Result;

use super::guest_tools;
use crate::arch::Arch;

/// Packages of the programs and of the libraries that they need; most are for curl. The C library is the machine's own,
/// which is not older, and libz comes with the guests' tools.
const PACKAGES: [&str; 35] = [
    "curl",
    "libbrotli1",
    "libcom-err2",
    "libcrypt1",
    "libcurl4",
    "libexpat1",
    "libffi8",
    "libgmp10",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "libluajit-5.1-2",
    "libnettle8",
    "libnghttp2-14",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpsl5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "librtmp1",
    "libsasl2-2",
    "libssh2-1",
    "libssl3",
    "libtasn1-6",
    "libunistring2",
    "libzstd1",
    "nginx",
    "python3.11-minimal",
    "wrk",
];

/// Path of Python's own modules, in the folder and in a guest.
const PYTHON: &str = "usr/lib/python3.11";

/// Compiled modules of Python that asyncio needs.
const EXTENSIONS: [&str; 3] = ["_asyncio", "_contextvars", "_typing"];

/// Folders of Python that asyncio does not need: the other compiled modules, which would need more libraries, and large
/// ones.
const LEFT_OUT: [&str; 3] = ["lib-dynload", "pydoc_data", "test"];

/// The folder of the unpacked packages.
pub(crate) struct GuestClients {
    arch: Arch,
    folder: PathBuf,
}

impl GuestClients {
    /// Fetches the packages if they are missing.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let folder = guest_tools::unpacked_for(arch, "clients", &PACKAGES)?;
        Ok(Self { arch, folder })
    }

    /// Returns the programs, and their paths in a guest. They need the libraries in [`GuestClients::libraries`].
    pub(crate) fn programs(&self) -> impl Iterator<Item = (PathBuf, String)> {
        let programs = [
            ("usr/bin/curl", "usr/bin/curl"),
            ("usr/bin/wrk", "usr/bin/wrk"),
            ("usr/sbin/nginx", "usr/sbin/nginx"),
            ("usr/bin/python3.11", "usr/bin/python3"),
        ];
        let programs = programs.map(|(ours, guests)| (ours.to_owned(), guests.to_owned()));
        let target = self.arch.libraries();
        let extensions = EXTENSIONS.map(|name| {
            let path = format!("{PYTHON}/lib-dynload/{name}.cpython-311-{target}.so");
            (path.clone(), path)
        });
        let all = programs.into_iter().chain(extensions);
        all.map(|(ours, guests)| (self.folder.join(ours), format!("/{guests}")))
    }

    /// Returns the folder of Python's own modules, and its path in a guest.
    pub(crate) fn python_modules(&self) -> (PathBuf, String) {
        (self.folder.join(PYTHON), format!("/{PYTHON}"))
    }

    /// Returns the names in that folder that guests do not need.
    pub(crate) fn python_leaves_out() -> &'static [&'static str] {
        &LEFT_OUT
    }

    /// Returns the folders of libraries that the machine may not have.
    pub(crate) fn libraries(&self) -> [PathBuf; 2] {
        guest_tools::libraries_for(self.arch, &self.folder)
    }
}
