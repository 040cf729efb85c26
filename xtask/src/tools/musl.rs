//! The target of the static program that users install: musl, whose licence is MIT, and which has no name modules (NSS)
//! that a static program could not load.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{guest_tools, report};
use crate::process;

/// Target triple of the program.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// Package of the C library's headers. Rust brings the library itself, and the machine's own C compiler is enough to
/// compile the C parts of dependencies (zstd) with these headers.
const PACKAGES: [&str; 1] = ["musl-dev"];

/// The headers of musl, and the compiler's own.
pub(crate) struct Musl {
    headers: [PathBuf; 2],
}

impl Musl {
    /// Gets Rust's library for the target, and the headers, if they are missing.
    pub(crate) fn ensure() -> Result<Self> {
        let library = process::output(Command::new("rustc").args([
            "--print",
            "target-libdir",
            "--target",
            TARGET,
        ]))?;
        if !PathBuf::from(library.trim()).is_dir() {
            report("musl", &format!("rustup target add {TARGET}"));
            process::output(Command::new("rustup").args(["target", "add", TARGET])).context(
                "the static program is built with Rust's library for musl; install it with rustup or \
                 from your distribution",
            )?;
        }
        let folder = guest_tools::unpacked("musl", &PACKAGES)?;
        let builtin = process::output(Command::new("cc").arg("-print-file-name=include"))?;
        Ok(Self {
            headers: [
                folder.join("usr/include/x86_64-linux-musl"),
                builtin.trim().into(),
            ],
        })
    }

    /// Makes a build for the target compile C with these headers instead of the machine's.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        let [library, compiler] = self.headers.each_ref().map(|path| path.display());
        cargo.env("CC_x86_64_unknown_linux_musl", "cc").env(
            "CFLAGS_x86_64_unknown_linux_musl",
            format!("-nostdinc -isystem {library} -isystem {compiler}"),
        );
    }
}
