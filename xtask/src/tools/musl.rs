//! The build of static programs, for the host's architecture and for others: Rust's library for musl, the headers of musl,
//! and a C compiler for the C parts of dependencies (zstd).

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::guest_tools;
use super::peers::Peers;
use super::report;
use crate::arch::Arch;
use crate::process;

/// Package of the C library's headers. Rust brings the library itself.
const HEADERS: [&str; 1] = ["musl-dev"];

/// Packages of a C compiler for every architecture, whose libraries are those of [`Peers`], and of its headers.
const CLANG: [&str; 2] = ["clang-14", "libclang-common-14-dev"];

/// Path of the compiler below the folder of its packages, and of its own headers.
const CLANG_PROGRAM: &str = "usr/lib/llvm-14/bin/clang";
const CLANG_HEADERS: &str = "usr/lib/llvm-14/lib/clang/14.0.6/include";

/// The compiler, headers and libraries of a build for musl.
pub(crate) struct Musl {
    arch: Arch,
    compiler: PathBuf,
    /// Folders of the libraries that the compiler needs.
    libraries: Vec<PathBuf>,
    /// The headers of musl, and the compiler's own.
    headers: [PathBuf; 2],
}

/// The error of a target whose library is not on this machine, and which rustup cannot fetch.
#[derive(Debug)]
pub(crate) struct NoLibrary(&'static str);

impl fmt::Display for NoLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "static programs are built with Rust's library for {}; install it with rustup or from your distribution",
            self.0
        )
    }
}

impl Musl {
    /// Gets what is missing: Rust's library for the target, the headers, and a compiler, which is the machine's own if it
    /// compiles for this architecture.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let target = arch.musl();
        let library = process::output(Command::new("rustc").args([
            "--print",
            "target-libdir",
            "--target",
            target,
        ]))?;
        if !PathBuf::from(library.trim()).is_dir() {
            report("musl", &format!("rustup target add {target}"));
            process::output(Command::new("rustup").args(["target", "add", target]))
                .context(NoLibrary(target))?;
        }
        let headers = guest_tools::unpacked_for(arch, "musl", &HEADERS)?
            .join("usr/include")
            .join(format!("{}-linux-musl", arch.machine()));
        if arch == Arch::HOST {
            let builtin = process::output(Command::new("cc").arg("-print-file-name=include"))?;
            return Ok(Self {
                arch,
                compiler: "cc".into(),
                libraries: Vec::new(),
                headers: [headers, builtin.trim().into()],
            });
        }
        let clang = guest_tools::unpacked("clang", &CLANG)?;
        Ok(Self {
            arch,
            compiler: clang.join(CLANG_PROGRAM),
            libraries: Peers::ensure(Arch::HOST)?.all_libraries()?,
            headers: [headers, clang.join(CLANG_HEADERS)],
        })
    }

    /// Makes a build for the target compile C by this compiler, with these headers instead of the machine's, and, for
    /// another architecture, link by Rust's own linker.
    pub(crate) fn apply(&self, cargo: &mut Command) -> Result<()> {
        let target = self.arch.musl().replace('-', "_");
        let [library, compiler] = self.headers.each_ref().map(|path| path.display());
        let mut flags = format!("-nostdinc -isystem {library} -isystem {compiler}");
        if self.arch != Arch::HOST {
            flags.insert_str(0, &format!("--target={}-linux-musl ", self.arch.machine()));
            let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase());
            cargo.env(linker, "rust-lld");
        }
        cargo.env(format!("CC_{target}"), &self.compiler);
        cargo.env(format!("CFLAGS_{target}"), flags);
        if !self.libraries.is_empty() {
            let earlier = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
            let earlier = env::split_paths(&earlier).collect::<Vec<_>>();
            let folders = self.libraries.iter().chain(&earlier);
            let folders = folders.filter(|folder| **folder != *Path::new(""));
            cargo.env("LD_LIBRARY_PATH", env::join_paths(folders)?);
        }
        Ok(())
    }
}
