//! lintian, which checks packages against Debian's policy, and systemd-analyze, which checks units: from Debian,
//! unpacked with everything that they need, down to Perl and the C library, and run in that folder as its root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::debian::Suite;
use super::{lock, replace_folder, report, scratch_folder};
use crate::arch::Arch;
#[cfg(test)]
use crate::process;
use crate::workspace;

const SUITE: &str = "bookworm";

/// The checkers, what they start, and essential packages, which no package names among those that it needs.
const PACKAGES: [&str; 12] = [
    "lintian",
    "systemd",
    "base-files",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "libc-bin",
    "procps",
    "sed",
];

/// Enters the folder $1 as its root, with the machine's devices and a /proc of its own.
const ENTER: &str = r#"
    set -e
    root=$1
    shift
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    mount -t proc proc "$root/proc"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
        SYSTEMD_LOG_TARGET=console "$@"
"#;

/// The folder of the unpacked packages.
pub(crate) struct Checkers {
    folder: PathBuf,
}

impl Checkers {
    /// Fetches the checkers if they are missing: 75 MB.
    pub(crate) fn ensure() -> Result<Self> {
        let _lock = lock()?;
        let folder = workspace::tools().join("checkers");
        if !folder.exists() {
            report(
                "checkers",
                &format!("fetching lintian and systemd from Debian's {SUITE}"),
            );
            let unpacked = scratch_folder("checkers")?;
            let suite = Suite::open(SUITE, Arch::HOST)?;
            suite.unpack(&suite.with_dependencies(&PACKAGES)?, &unpacked)?;
            prepare(&unpacked).context("cannot prepare the folder of lintian and systemd")?;
            replace_folder(&unpacked, &folder)?;
        }
        Ok(Self { folder })
    }

    /// Checks a package with lintian, and returns its remarks.
    ///
    /// # Errors
    /// If it finds an error.
    pub(crate) fn lintian(&self, package: &Path) -> Result<String> {
        let mut lintian = self.command("lintian");
        lintian.args(["--allow-root", "--fail-on", "error"]);
        // Not --show-overrides, with which an error that is overridden counts as one.
        lintian.args(["--display-info", "--tag-display-limit", "0"]);
        lintian.arg(self.inside(package)?);
        // It writes what it finds to its standard output.
        let output = lintian.output().context("cannot run unshare")?;
        let remarks = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr);
            bail!(
                "lintian refuses {}:\n{remarks}{messages}",
                package.display()
            );
        }
        Ok(remarks)
    }

    /// Checks a unit with systemd-analyze.
    ///
    /// # Errors
    /// If a line of it is wrong or unknown.
    pub(crate) fn verify(&self, unit: &Path) -> Result<()> {
        let mut verify = self.command("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(self.inside(unit)?);
        let output = verify.output().context("cannot run unshare")?;
        // A line that is unknown is ignored, with a message.
        if !output.status.success() || !output.stderr.is_empty() {
            let messages = String::from_utf8_lossy(&output.stderr);
            bail!("systemd refuses {}:\n{messages}", unit.display());
        }
        Ok(())
    }

    /// Returns systemd's assessment of how exposed a service is.
    #[cfg(test)]
    pub(crate) fn exposure(&self, unit: &Path) -> Result<String> {
        let mut security = self.command("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager"]);
        process::output(security.arg(self.inside(unit)?))
    }

    /// Returns a command in the folder.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "--pid", "--fork"])
            .args(["sh", "-c", ENTER, "sh"])
            .arg(&self.folder)
            .arg(program);
        command
    }

    /// Copies a file into the folder, and returns its path there.
    fn inside(&self, file: &Path) -> Result<PathBuf> {
        let path = Path::new("tmp").join(file.file_name().unwrap_or_default());
        let copy = self.folder.join(&path);
        fs::copy(file, &copy)
            .with_context(|| format!("cannot copy {} to {}", file.display(), copy.display()))?;
        Ok(Path::new("/").join(path))
    }
}

/// Does what the packages' scripts would do, and puts a program where the unit has ours.
fn prepare(folder: &Path) -> std::io::Result<()> {
    for name in ["dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(folder.join(name))?;
    }
    symlink("debian", folder.join("etc/dpkg/origins/default"))?;
    symlink("/bin/true", folder.join("usr/bin/connect-trace"))
}
