//! The static program that packages bring, and what it prints about itself.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::tree::Tree;
use super::{NAME, WORK};
use crate::tools::cargo_tool::CARGO_AUDITABLE;
use crate::tools::musl::{self, Musl};
use crate::{process, tools, workspace};

pub(super) struct Program {
    path: PathBuf,
    content: Vec<u8>,
}

impl Program {
    /// Builds the program for release, with the list of its crates inside.
    pub(super) fn build() -> Result<Self> {
        tools::ensure_for_build()?;
        let musl = Musl::ensure()?;
        let mut build = Command::new(CARGO_AUDITABLE.ensure()?);
        build
            .args(["auditable", "build", "--release", "--locked"])
            .args(["--package", NAME, "--bin", NAME, "--target", musl::TARGET])
            // Not by a variable, which the build of the eBPF programs would inherit.
            .args(["--config", "profile.release.strip=true"])
            .current_dir(workspace::root())
            .env("CARGO", workspace::cargo().get_program())
            .env("CARGO_ENCODED_RUSTFLAGS", flags())
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        musl.apply(&mut build);
        process::shown(&mut build)
            .context("cannot build the static program (cargo's messages say why)")?;
        let target = workspace::root().join("target").join(musl::TARGET);
        Self::open(&target.join("release").join(NAME))
    }

    /// Reads a program that was built before.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        if !is_static(&content).with_context(|| format!("{} is no program", path.display()))? {
            bail!(
                "{} needs shared libraries, and packages say that the program needs none; give a static \
                 program",
                path.display()
            );
        }
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))?;
        Ok(Self { path, content })
    }

    /// Returns the path of the program.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the program itself.
    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Returns the script that completes its command line in a shell.
    pub(super) fn completions(&self, shell: &str) -> Result<String> {
        process::output(Command::new(&self.path).args(["completions", shell]))
    }

    /// Returns its manual pages, which it writes below a folder.
    pub(super) fn manual(&self, folder: &Path) -> Result<Tree> {
        let folder = folder.join(WORK).join("man");
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        process::output(
            Command::new(&self.path)
                .args(["man", "--output-dir"])
                .arg(&folder),
        )?;
        let mut pages = Tree::default();
        pages.add_folder("man1", &folder, "1")?;
        Ok(pages)
    }
}

/// Returns flags of the compiler that keep the folders of this machine out of the program, as in its `build.rs`.
fn flags() -> String {
    let home = env::var("HOME").unwrap_or_default();
    let root = workspace::root().display();
    format!("--remap-path-prefix={home}=~\x1f--remap-path-prefix={root}=.")
}

/// Returns true if a program needs no loader, and so no shared libraries.
fn is_static(program: &[u8]) -> Result<bool> {
    use object::elf::{FileHeader64, PT_INTERP};
    use object::endian::Endianness;
    use object::read::elf::{FileHeader as _, ProgramHeader as _};

    let header = FileHeader64::<Endianness>::parse(program)?;
    let endian = header.endian()?;
    let mut segments = header.program_headers(endian, program)?.iter();
    Ok(!segments.any(|segment| segment.p_type(endian) == PT_INTERP))
}
