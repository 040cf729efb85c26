//! QEMU, which runs the guests: from Debian, unpacked and not installed, and with all libraries that it needs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::debian::Suite;
use super::{lock, replace_folder, report, scratch_folder};
use crate::arch::Arch;
use crate::workspace;

/// The oldest suite whose QEMU is of version 10: emulating takes a fifth less time than in version 7.2 of the one before.
const SUITE: &str = "trixie";

/// Packages of the programs that emulate machines of each architecture.
const PACKAGES: [&str; 2] = ["qemu-system-arm", "qemu-system-x86"];

/// Fetches QEMU if it is missing: 50 MB.
pub(crate) fn ensure() -> Result<()> {
    let _lock = lock()?;
    let folder = folder();
    if !folder.exists() {
        report("qemu", &format!("fetching it from Debian's {SUITE}"));
        let unpacked = scratch_folder("qemu")?;
        let suite = Suite::open(SUITE, Arch::HOST)?;
        suite.unpack(&suite.with_dependencies(&PACKAGES)?, &unpacked)?;
        replace_folder(&unpacked, &folder)?;
    }
    Ok(())
}

/// Returns the program that emulates a machine of this architecture, as a command. Its libraries and their loader are of one
/// release, whatever the machine has.
pub(crate) fn command(arch: Arch) -> Command {
    let usr = folder().join("usr");
    let mut command = Command::new(usr.join("lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(usr.join("lib").join(Arch::HOST.libraries()))
        .arg(usr.join(format!("bin/qemu-system-{}", arch.machine())));
    for firmware in ["qemu", "seabios"] {
        command.arg("-L").arg(usr.join("share").join(firmware));
    }
    command
}

fn folder() -> PathBuf {
    workspace::tools().join("qemu")
}
