//! The source tarball, with the compiled eBPF programs where `build.rs` looks for them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::commit::{self, Commit};
use super::{NAME, VERSION, WORK};
use crate::{process, tools, workspace};

/// Variable of `build.rs` that names compiled eBPF programs.
const READY: &str = "CONNECT_TRACE_BPF_OBJECT";

/// Path of the eBPF programs in the tree, as in `build.rs`.
const OBJECT: &str = "connect-trace/bpf/connect-trace.o";

/// Writes the tarball and returns its path.
pub(super) fn write(commit: &Commit, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("{NAME}-{VERSION}-source.tar.gz"));
    let object = folder
        .join(WORK)
        .join(Path::new(OBJECT).file_name().unwrap_or_default());
    fs::copy(object_of_build()?, &object)
        .with_context(|| format!("cannot write {}", object.display()))?;
    archive(commit, Some(&object), folder, &path)?;
    Ok(path)
}

/// Archives the files of a commit, and the eBPF programs if they are given.
pub(super) fn archive(
    commit: &Commit,
    object: Option<&Path>,
    folder: &Path,
    path: &Path,
) -> Result<()> {
    let mut archive = commit::git();
    archive.arg("archive").arg("--output").arg(path);
    let prefix = format!("--prefix={NAME}-{VERSION}/");
    if let Some(object) = object {
        let (beside, _) = OBJECT.rsplit_once('/').unwrap_or_default();
        archive.arg(format!("{prefix}{beside}/"));
        archive.arg(format!("--add-file={}", object.display()));
    }
    process::output(archive.arg(prefix).arg(commit.files(folder)?))?;
    Ok(())
}

/// Builds the eBPF programs, unless the build is to take ready ones, and returns their path.
pub(super) fn object_of_build() -> Result<PathBuf> {
    if env::var_os(READY).is_none() {
        tools::ensure_for_build()?;
        let mut check = workspace::cargo();
        // Their build script belongs to the daemon, and checking that takes less than building it.
        check.args(["check", "--quiet", "--locked", "--package", NAME, "--lib"]);
        check.env_remove("CARGO_TARGET_DIR");
        process::shown(&mut check).context("cannot build the eBPF programs")?;
    }
    Ok(object())
}

/// Returns the path of the eBPF programs that builds of the program have inside, as in `build.rs`.
pub(super) fn object() -> PathBuf {
    let built = "target/bpf/bpfel-unknown-none/release/connect-trace-ebpf";
    workspace::root().join(env::var_os(READY).unwrap_or_else(|| built.into()))
}

/// Unpacks an archive of the source into a folder, which is replaced, and returns the folder of the source.
pub(super) fn unpack(archive: &Path, folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(folder);
    process::output(&mut tar)?;
    Ok(folder.join(format!("{NAME}-{VERSION}")))
}
