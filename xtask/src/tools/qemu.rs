//! QEMU, which runs the guests. It is the only tool that is installed on the machine: it has too many files to unpack
//! by hand.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{lock, report};
use crate::arch::Arch;
use crate::process;

/// Returns the name of the program that emulates the machine of guests.
pub(crate) fn program(arch: Arch) -> String {
    format!("qemu-system-{}", arch.machine())
}

/// Installs QEMU if it is missing.
pub(crate) fn ensure(arch: Arch) -> Result<()> {
    let _lock = lock()?;
    let program = program(arch);
    let package = match arch {
        Arch::Amd64 => "qemu-system-x86",
        Arch::Arm64 => "qemu-system-arm",
    };
    let command = format!("apt-get install -y --no-install-recommends {package}");
    if process::is_installed(&program) {
        return Ok(());
    }
    if !process::is_root() || !process::is_installed("apt-get") {
        bail!(
            "guests run in QEMU, and there is no {program} on this machine; as root, run:\n    \
             {command}\nor install your distribution's package of it"
        );
    }
    report("qemu", &format!("running {command}"));
    let mut words = command.split(' ');
    let mut install = Command::new(words.next().unwrap_or_default());
    install
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    if process::output(&mut install).is_err() {
        // A fresh machine may have no package list yet.
        process::output(Command::new("apt-get").arg("update"))?;
        process::output(&mut install)
            .with_context(|| format!("cannot install QEMU; to see why, run: {command}"))?;
    }
    Ok(())
}
