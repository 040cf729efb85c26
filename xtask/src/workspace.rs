//! The places in the workspace that commands share.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The triple of everything that runs in a guest. Naming it, even where it is the host's own, keeps
/// a build's flags away from its build scripts.
pub(crate) const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The workspace's root folder.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The folder for what is fetched and not built; it survives `cargo clean`.
pub(crate) fn tools() -> PathBuf {
    root().join(".tools")
}

/// The build folder of what runs in guests, apart from the host's so that neither blocks the other.
pub(crate) fn guest_target() -> PathBuf {
    root().join("target/guest")
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
