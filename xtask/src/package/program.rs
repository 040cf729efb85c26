//! The static programs that packages bring, one for each architecture.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Architecture, LittleEndian, Object as _};

use super::NAME;
use crate::arch::Arch;
use crate::tools::cargo_tool::CARGO_AUDITABLE;
use crate::tools::musl::Musl;
use crate::{process, tools, workspace};

/// A program for 64 bits in the byte order of all architectures.
type Elf<'data> = ElfFile64<'data, LittleEndian>;

/// A static program.
pub(super) struct Program {
    path: PathBuf,
    arch: Arch,
    content: Vec<u8>,
}

impl Program {
    /// Builds the programs for release, with the lists of their crates inside: at the same time, because the optimization
    /// of a whole program, which is most of the work, takes one CPU.
    pub(super) fn build(archs: &[Arch]) -> Result<Vec<Self>> {
        tools::ensure_for_build()?;
        let mut build = Command::new(CARGO_AUDITABLE.ensure()?);
        build
            .args(["auditable", "build", "--release", "--locked"])
            .args(["--package", NAME, "--bin", NAME])
            // Not by a variable, which the build of the eBPF programs would inherit.
            .args(["--config", "profile.release.strip=true"])
            .current_dir(workspace::root())
            .env("CARGO", workspace::cargo().get_program())
            .env("CARGO_ENCODED_RUSTFLAGS", flags())
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        for arch in archs {
            build.args(["--target", arch.musl()]);
            Musl::ensure(*arch)?.apply(&mut build)?;
        }
        process::shown(&mut build)
            .context("cannot build the static programs (cargo's messages say why)")?;
        let programs = archs.iter().map(|arch| {
            let target = workspace::root().join("target").join(arch.musl());
            Self::open(&target.join("release").join(NAME))
        });
        programs.collect()
    }

    /// Reads a program that was built before, for the architecture that its header names.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let no_program = || format!("{} is no program of Linux on 64 bits", path.display());
        let elf = Elf::parse(content.as_slice()).with_context(no_program)?;
        let arch = match elf.architecture() {
            Architecture::X86_64 => Arch::Amd64,
            Architecture::Aarch64 => Arch::Arm64,
            other => bail!(
                "{} is a program for {other:?}; packages are made for {}",
                path.display(),
                Arch::ALL.map(Arch::debian).join(" and ")
            ),
        };
        if !is_static(&elf) {
            bail!(
                "{} needs shared libraries, and packages say that the program needs none; give a static \
                 program",
                path.display()
            );
        }
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))?;
        Ok(Self {
            path,
            arch,
            content,
        })
    }

    /// Returns the path of the program.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the architecture that the program is for.
    pub(super) const fn arch(&self) -> Arch {
        self.arch
    }

    /// Returns the program itself.
    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Checks that the program has these eBPF programs inside.
    pub(super) fn check_object(&self, object: &[u8]) -> Result<()> {
        let mut parts = self.content.windows(object.len());
        ensure!(
            parts.any(|part| part == object),
            "{} does not have the eBPF programs of this build inside; `touch connect-trace/build.rs` and build it \
             again",
            self.path.display()
        );
        Ok(())
    }
}

/// Builds the program for this machine, quickly, and returns its path.
pub(super) fn build_for_host() -> Result<PathBuf> {
    tools::ensure_for_build()?;
    let mut build = workspace::cargo();
    build.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        NAME,
        "--bin",
        NAME,
    ]);
    build.env_remove("CARGO_TARGET_DIR");
    process::shown(&mut build).context("cannot build the program (cargo's messages say why)")?;
    Ok(workspace::root().join("target/debug").join(NAME))
}

/// Returns flags of the compiler that keep the folders of this machine out of the program, as in its `build.rs`.
fn flags() -> String {
    let home = env::var("HOME").unwrap_or_default();
    let root = workspace::root().display();
    format!("--remap-path-prefix={home}=~\x1f--remap-path-prefix={root}=.")
}

/// Returns true if a program needs no loader, and so no shared libraries.
fn is_static(elf: &Elf<'_>) -> bool {
    let mut segments = elf.elf_program_headers().iter();
    !segments.any(|segment| segment.p_type(elf.endian()) == PT_INTERP)
}
