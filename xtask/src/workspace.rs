//! Paths of the workspace that several commands use.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::arch::Arch;

/// Finds the workspace of the current folder. The path is not known at compile time: a program that was built in one
/// tree may be run in a copy of it.
///
/// # Errors
/// If the current folder is in no workspace.
pub(crate) fn find() -> Result<&'static Path> {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root);
    }
    let folder = env::current_dir().context("cannot find the current folder")?;
    let root = root_above(&folder).with_context(|| {
        format!(
            "neither {} nor a folder above it has a Cargo.toml with [workspace]; run `cargo xtask` in \
             connect-trace's own tree",
            folder.display()
        )
    })?;
    Ok(ROOT.get_or_init(|| root.to_owned()))
}

/// Returns the nearest parent folder whose Cargo.toml defines a workspace.
fn root_above(folder: &Path) -> Option<&Path> {
    folder.ancestors().find(|folder| {
        fs::read_to_string(folder.join("Cargo.toml"))
            .is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == "[workspace]"))
    })
}

/// Returns the workspace's root folder. Each `main` has made sure that there is one.
pub(crate) fn root() -> &'static Path {
    find().unwrap_or(Path::new("."))
}

/// Returns the folder for fetched tools; it survives `cargo clean`.
pub(crate) fn tools() -> PathBuf {
    root().join(".tools")
}

/// Returns the folder for what was fetched for machines of an architecture.
pub(crate) fn tools_of(arch: Arch) -> PathBuf {
    match arch {
        Arch::HOST => tools(),
        other => tools().join(other.debian()),
    }
}

/// Returns the build folder for guests' programs, apart from the host's so that neither build blocks the other.
pub(crate) fn guest_target() -> PathBuf {
    root().join("target/guest")
}

/// Returns the cargo that runs xtask, with the workspace's root as its working folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_the_one_that_the_folder_lies_in() {
        let tree = env::temp_dir().join(format!("connect-trace-xtask-{}", std::process::id()));
        let package = tree.join("copy/package");
        fs::create_dir_all(package.join("src")).unwrap();
        fs::write(tree.join("Cargo.toml"), "[workspace]\n").unwrap();
        fs::write(package.join("Cargo.toml"), "[package]\n").unwrap();
        assert_eq!(root_above(&package.join("src")), Some(tree.as_path()));
        let copy = tree.join("copy");
        fs::write(copy.join("Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
        assert_eq!(root_above(&package.join("src")), Some(copy.as_path()));
        fs::remove_dir_all(&tree).unwrap();
        assert_eq!(root_above(Path::new("/proc/self")), None);
    }
}
