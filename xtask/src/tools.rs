//! Tools that the workspace needs and does not build itself. All are in `.tools/`, and are fetched only if they are
//! missing.

pub(crate) mod bpf_linker;
pub(crate) mod browser;
pub(crate) mod cargo_tool;
pub(crate) mod checkers;
pub(crate) mod debian;
pub(crate) mod duckdb;
pub(crate) mod guest_clients;
pub(crate) mod guest_tools;
pub mod kernels;
pub(crate) mod libfuzzer;
pub(crate) mod musl;
pub(crate) mod nightly;
pub(crate) mod peers;
pub(crate) mod prometheus;
pub(crate) mod qemu;
pub(crate) mod rust_src;
pub(crate) mod shells;
pub(crate) mod skopeo;
pub(crate) mod tmux;

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Keeps other runs of xtask from fetching the same files at the same time; released on drop.
pub(crate) fn lock() -> Result<File> {
    let folder = workspace::tools();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        eprintln!("waiting for another run of xtask to fetch what it needs");
    }
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Descriptions of the tools that the build uses.
pub struct BuildTools {
    /// The eBPF compiler.
    pub nightly: String,
    /// The eBPF linker.
    pub bpf_linker: &'static str,
}

/// Fetches the tools of the build: the eBPF compiler, the source of its library, and its linker.
///
/// # Errors
/// If a tool cannot be fetched.
pub fn ensure_for_build() -> Result<BuildTools> {
    let _lock = lock()?;
    let compiler = nightly::ensure()?;
    rust_src::ensure(&compiler)?;
    let bpf_linker = bpf_linker::ensure(&compiler)?;
    Ok(BuildTools {
        nightly: compiler.to_string(),
        bpf_linker,
    })
}

/// Prints the state of one tool.
pub(crate) fn report(tool: &str, state: &str) {
    eprintln!("{tool:>12}  {state}");
}

/// Replaces a folder in one step, so that an interrupted run leaves no partial folder.
fn replace_folder(new: &Path, place: &Path) -> Result<()> {
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    fs::rename(new, place)
        .with_context(|| format!("cannot move {} to {}", new.display(), place.display()))
}

/// Creates an empty folder below `.tools/` for temporary files.
pub(crate) fn scratch_folder(name: &str) -> Result<std::path::PathBuf> {
    let folder = workspace::tools().join("scratch").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}
