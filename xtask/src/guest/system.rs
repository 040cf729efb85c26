//! A whole Debian with systemd as PID 1, for tests of the service as it is installed.
//!
//! Its packages are unpacked into an archive that the kernel reads at boot, and entered in dpkg's list as installed. No
//! script of theirs runs, so that building takes neither root nor a folder of its own; the few files that scripts would
//! have written are written here. A package that is installed in a guest is installed by dpkg, scripts and all.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use connect_trace_guest::job::{self, Job};

use super::cpio::Archive;
use super::{PROGRAMS, in_folder};
use crate::arch::Arch;
use crate::tools::debian::Suite;
use crate::tools::{lock, report, scratch_folder};
use crate::{process, workspace};

/// The suite, whose systemd is the oldest of a supported Debian.
const SUITE: &str = "bookworm";

/// Packages of the system, to which their dependencies are added: the essential ones, which no package names as a
/// dependency, apt, systemd, and programs that the tests use.
const PACKAGES: [&str; 31] = [
    "adduser",
    "apt",
    "base-files",
    "base-passwd",
    "bash",
    "bpftool",
    "bsdutils",
    "coreutils",
    "curl",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "iproute2",
    "libc-bin",
    "libcap2-bin",
    "libnss-systemd",
    "login",
    "mount",
    "passwd",
    "perl-base",
    "sed",
    "systemd-sysv",
    "tar",
    "usr-is-merged",
    "util-linux",
];

/// Folders that a guest has no use for.
const LEFT_OUT: [&str; 9] = [
    "/usr/lib/udev/hwdb.d",
    "/usr/lib/x86_64-linux-gnu/gconv",
    "/usr/share/bash-completion",
    "/usr/share/doc",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/zoneinfo",
];

/// Folders of the root whose files are in the folder of the same name below /usr.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Files that the packages' scripts would have written, without which a system does not work.
const FILES: [(&str, &str); 7] = [
    ("/etc/hostname", "guest\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    // Without one, systemd takes this boot for the first and applies its presets.
    ("/etc/machine-id", "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\n"),
    (
        "/etc/nsswitch.conf",
        "passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files\n",
    ),
    ("/var/lib/dpkg/available", ""),
    ("/var/lib/dpkg/info/format", "1\n"),
    ("/var/lib/dpkg/diversions", ""),
];

/// Files that the packages' scripts would have copied: from, to.
const COPIES: [(&str, &str); 2] = [
    ("/usr/share/base-passwd/passwd.master", "/etc/passwd"),
    ("/usr/share/base-passwd/group.master", "/etc/group"),
];

/// Folders that dpkg creates when it first installs something.
const FOLDERS: [&str; 7] = [
    "/var/lib/dpkg",
    "/var/lib/dpkg/alternatives",
    "/var/lib/dpkg/info",
    "/var/lib/dpkg/parts",
    "/var/lib/dpkg/triggers",
    "/var/lib/dpkg/updates",
    "/mnt",
];

/// Units that would wait for devices or a message bus in vain.
const MASKED: [&str; 4] = [
    "getty.target",
    "systemd-logind.service",
    "systemd-networkd.socket",
    "systemd-pstore.service",
];

/// PID 1 of the system.
const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// Path of the guest's own `init`, which does the job as a service.
const INIT: &str = "/init";

/// The unit that does the job. As `exec` it does not hold up the boot: a test may wait for the system to be running.
const UNIT: (&str, &str) = (
    "guest-job.service",
    "[Unit]\n\
     Description=The job of this guest\n\
     After=basic.target\n\
     \n\
     [Service]\n\
     Type=exec\n\
     ExecStart=/init\n\
     StandardOutput=journal+console\n\
     StandardError=journal+console\n\
     LimitNOFILE=1048576\n",
);

/// The file system of the system, as the kernel reads it.
pub(crate) struct System {
    archive: PathBuf,
}

impl System {
    /// Builds the system if it is missing or has other packages.
    pub(crate) fn ensure() -> Result<Self> {
        let _lock = lock()?;
        let folder = workspace::tools().join("system");
        let (archive, recipe) = (folder.join("root.cpio"), folder.join("recipe"));
        // What it is built from is in this file alone.
        let this = include_str!("system.rs");
        if !archive.is_file() || fs::read_to_string(&recipe).ok().as_deref() != Some(this) {
            report("system", &format!("building one from Debian's {SUITE}"));
            let start = Instant::now();
            let _ = fs::remove_file(&recipe);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            fs::write(&archive, build()?)
                .with_context(|| format!("cannot write {}", archive.display()))?;
            fs::write(&recipe, this)
                .with_context(|| format!("cannot write {}", recipe.display()))?;
            let took = start.elapsed().as_secs_f64();
            report("system", &format!("built in {took:.0} s"));
        }
        Ok(Self { archive })
    }

    /// Returns the image of a guest: the system, the workspace's programs, more files, and the job.
    pub(crate) fn image(
        &self,
        init: &Path,
        programs: &[&Path],
        inputs: &[(PathBuf, String)],
        modules: &[(String, Vec<u8>)],
        mut job: Job,
    ) -> Result<Vec<u8>> {
        let mut image = fs::read(&self.archive)
            .with_context(|| format!("cannot read {}", self.archive.display()))?;
        let mut root = Archive::default();
        let programs = programs
            .iter()
            .map(|path| ((*path).to_owned(), in_folder(PROGRAMS, path)));
        let init = [(init.to_owned(), INIT.to_owned())];
        for (source, path) in init
            .into_iter()
            .chain(programs)
            .chain(inputs.iter().cloned())
        {
            let unreadable = || format!("cannot copy {} into a guest", source.display());
            let content = fs::read(&source).with_context(unreadable)?;
            let permissions = fs::metadata(&source).with_context(unreadable)?;
            let permissions = permissions.permissions().mode() & 0o777 | 0o444;
            root.file(&merged(&path), permissions, &content);
        }
        for (path, content) in modules {
            root.file(&merged(path), 0o644, content);
        }
        let units = "/etc/systemd/system";
        let (name, text) = UNIT;
        root.file(&format!("{units}/{name}"), 0o644, text.as_bytes());
        root.link(
            &format!("{units}/multi-user.target.wants/{name}"),
            &format!("../{name}"),
        );
        job.system = Some(SYSTEMD.into());
        root.file(job::PATH, 0o644, &job.encode());
        // The kernel reads one archive after the other.
        image.append(&mut root.finish());
        Ok(image)
    }
}

/// Fetches the packages and returns the archive of the system.
fn build() -> Result<Vec<u8>> {
    let suite = Suite::open(SUITE, Arch::HOST)?;
    let packages = suite.with_dependencies(&PACKAGES)?;
    let folder = scratch_folder("system")?;
    let packages = suite.download(&packages, &folder)?;

    let mut root = Archive::default();
    for name in MERGED {
        root.folder(&format!("/usr/{name}"));
        root.link(&format!("/{name}"), &format!("usr/{name}"));
    }
    // Rust's runtime needs standard streams, and the kernel opens them for init at this path.
    root.folder("/dev");
    root.device("/dev/console", 5, 1);
    root.device("/dev/null", 1, 3);

    let mut status = String::new();
    let mut copies = BTreeMap::new();
    for package in &packages {
        add_package(&mut root, package, &mut status, &mut copies)
            .with_context(|| format!("cannot unpack {}", package.display()))?;
    }
    for path in FOLDERS {
        root.folder(path);
    }
    for (path, content) in FILES {
        root.file(path, 0o644, content.as_bytes());
    }
    for (from, to) in COPIES {
        let content = copies.get(from);
        let content = content.with_context(|| format!("no package has {from}"))?;
        root.file(to, 0o644, content);
    }
    root.file("/var/lib/dpkg/status", 0o644, status.as_bytes());
    for unit in MASKED {
        root.link(&format!("/etc/systemd/system/{unit}"), "/dev/null");
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(root.finish())
}

/// Adds the files of a package, and its entry in dpkg's list. Keeps the files that are to be copied.
fn add_package(
    root: &mut Archive,
    package: &Path,
    status: &mut String,
    copies: &mut BTreeMap<&'static str, Vec<u8>>,
) -> Result<()> {
    let mut list = String::new();
    let files = tarball(package, "--fsys-tarfile")?;
    let mut archive = tar::Archive::new(files.as_slice());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = format!("/{}", path.trim_start_matches("./").trim_end_matches('/'));
        list.push_str(if path == "/" { "/." } else { &path });
        list.push('\n');
        let path = merged(&path);
        let left_out = |folder: &&str| Path::new(&path).starts_with(folder);
        if path == "/" || LEFT_OUT.iter().any(left_out) {
            continue;
        }
        let header = entry.header();
        let (permissions, kind) = (header.mode()? & 0o7777, header.entry_type());
        let owner = (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?);
        let target = entry.link_name()?;
        let target = target.map(|target| target.to_string_lossy().into_owned());
        match (kind, target) {
            (tar::EntryType::Directory, _) => root.folder_of(&path, permissions, owner),
            (tar::EntryType::Regular, _) => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                root.file_of(&path, permissions, owner, &content);
                if let Some((from, _)) = COPIES.iter().find(|(from, _)| *from == path) {
                    copies.insert(from, content);
                }
            }
            (tar::EntryType::Symlink, Some(target)) => root.link(&path, &target),
            // A link to a file of the same package, which a symbolic link can stand for.
            (tar::EntryType::Link, Some(target)) => {
                let target = format!("/{}", target.trim_start_matches("./"));
                root.link(&path, &merged(&target));
            }
            (kind, _) => bail!("{path} is of a kind that is not supported: {kind:?}"),
        }
    }

    let mut control = String::new();
    let mut sums = None;
    for entry in tar::Archive::new(tarball(package, "--ctrl-tarfile")?.as_slice()).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if path.ends_with("control") {
            entry.read_to_string(&mut control)?;
        } else if path.ends_with("md5sums") {
            entry.read_to_string(sums.insert(String::new()))?;
        }
    }
    let field = |name: &str| {
        let mut lines = control.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let name = field("Package").context("it has no name")?;
    let name = match (field("Multi-Arch"), field("Architecture")) {
        (Some("same"), Some(architecture)) => format!("{name}:{architecture}"),
        _ => name.to_owned(),
    };
    for (kind, content) in [("list", Some(list)), ("md5sums", sums)] {
        let path = format!("/var/lib/dpkg/info/{name}.{kind}");
        // dpkg takes a package without sums for broken; one without files has an empty list of them.
        let content = content.unwrap_or_default();
        root.file(&path, 0o644, content.as_bytes());
    }
    let entry = control.replacen('\n', "\nStatus: install ok installed\n", 1);
    status.push_str(entry.trim_end());
    status.push_str("\n\n");
    Ok(())
}

/// Returns one of the two archives in a package.
fn tarball(package: &Path, which: &str) -> Result<Vec<u8>> {
    let mut dpkg = Command::new("dpkg-deb");
    let output = dpkg.arg(which).arg(package).output();
    let output = output.context("cannot run dpkg-deb")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}", process::line(&dpkg), said.trim_end());
    }
    Ok(output.stdout)
}

/// Returns the path of a file in a system with one `/usr`. A folder /lib would take the place of the link of that name.
fn merged(path: &str) -> String {
    let first = path.trim_start_matches('/').split('/').next();
    if first.is_some_and(|first| MERGED.contains(&first)) {
        format!("/usr{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_libraries_are_below_usr() {
        assert_eq!(merged("/bin/sh"), "/usr/bin/sh");
        assert_eq!(merged("/lib64/ld.so"), "/usr/lib64/ld.so");
        assert_eq!(merged("/library/a"), "/library/a");
        assert_eq!(merged("/usr/bin/env"), "/usr/bin/env");
        assert_eq!(merged("/etc/passwd"), "/etc/passwd");
    }
}
