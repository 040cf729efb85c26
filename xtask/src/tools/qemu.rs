//! QEMU, which runs the guests. It is the only tool that is installed on the machine: it has too many files to unpack
//! by hand.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{lock, report};
use crate::process;

/// Name of the program that emulates the guests' machine.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

const INSTALL: &str = "apt-get install -y --no-install-recommends qemu-system-x86";

/// Installs QEMU if it is missing.
pub(crate) fn ensure() -> Result<()> {
    let _lock = lock()?;
    if process::is_installed(PROGRAM) {
        return Ok(());
    }
    if !process::is_root() || !process::is_installed("apt-get") {
        bail!(
            "guests run in QEMU, and there is no {PROGRAM} on this machine; as root, run:\n    \
             {INSTALL}\nor install your distribution's package of it"
        );
    }
    report("qemu", &format!("running {INSTALL}"));
    let mut words = INSTALL.split(' ');
    let mut install = Command::new(words.next().unwrap_or_default());
    install
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    if process::output(&mut install).is_err() {
        // A fresh machine may have no package list yet.
        process::output(Command::new("apt-get").arg("update"))?;
        process::output(&mut install)
            .with_context(|| format!("cannot install QEMU; to see why, run: {INSTALL}"))?;
    }
    Ok(())
}
