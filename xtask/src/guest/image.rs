//! File system of a guest: the initramfs that the kernel unpacks into memory when it boots.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use connect_trace_guest::job::{self, Job};

use super::cpio::Archive;
use super::libraries;
use crate::arch::Arch;
use crate::process;

/// Collects the files of the image. If a path is added twice, the first file stays.
pub(crate) struct Image {
    archive: Archive,
    arch: Arch,
    /// Folders of libraries that take precedence over the machine's own, of which an architecture other than the host's has
    /// none.
    libraries: Vec<PathBuf>,
}

impl Image {
    /// Creates an image with the program that the kernel starts.
    pub(crate) fn new(arch: Arch, init: &Path, libraries: &[PathBuf]) -> Result<Self> {
        let mut image = Self {
            archive: Archive::default(),
            arch,
            libraries: libraries.to_vec(),
        };
        for folder in [
            "/root",
            "/etc",
            "/tmp",
            "/run",
            "/usr/bin",
            "/usr/sbin",
            libraries::FOLDER,
        ] {
            image.archive.folder(folder);
        }
        // Loaders of some distributions look only here.
        let folder = format!("/lib/{}", arch.libraries());
        image.archive.link(&folder, libraries::FOLDER);
        if arch != Arch::HOST {
            image.add_all_libraries()?;
        }
        // Rust's runtime needs standard streams, and the kernel opens them for init at this path.
        image.archive.folder("/dev");
        image.archive.device("/dev/console", 5, 1);
        image.archive.device("/dev/null", 1, 3);
        image.add_content("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
        image.add_content("/etc/group", b"root:x:0:\n");
        image.add_content("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
        image.add_file("/init", init)?;
        Ok(image)
    }

    /// Adds a file of the host; if it is a program, also the libraries that it needs.
    pub(crate) fn add_file(&mut self, path: &str, source: &Path) -> Result<()> {
        let unreadable = || format!("cannot copy {} into a guest", source.display());
        let metadata = fs::metadata(source).with_context(unreadable)?;
        if !metadata.is_file() {
            bail!("{}: it is not a file", unreadable());
        }
        let permissions = metadata.permissions().mode() & 0o777;
        let content = fs::read(source).with_context(unreadable)?;
        self.archive.file(path, permissions | 0o444, &content);
        if self.arch != Arch::HOST {
            return Ok(());
        }
        for library in libraries::of(source, &self.libraries)? {
            let content = fs::read(&library.host)
                .with_context(|| format!("cannot read {}", library.host.display()))?;
            self.archive.file(&library.guest, 0o755, &content);
        }
        Ok(())
    }

    /// Adds every library: only the loader of their architecture could tell which ones a program needs.
    fn add_all_libraries(&mut self) -> Result<()> {
        for folder in std::mem::take(&mut self.libraries) {
            if !folder.is_dir() {
                continue;
            }
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let place = format!("{}/{name}", libraries::FOLDER);
                if let Ok(target) = fs::read_link(&path) {
                    self.archive.link(&place, &target.to_string_lossy());
                } else if path.is_file() {
                    self.archive.file(&place, 0o755, &fs::read(&path)?);
                }
            }
        }
        let loader = "ld-linux-aarch64.so.1";
        let place = format!("/lib/{loader}");
        self.archive
            .link(&place, &format!("{}/{loader}", libraries::FOLDER));
        Ok(())
    }

    /// Adds the files below a folder of the host, without libraries, without links, and without entries named in
    /// `left_out`.
    pub(crate) fn add_tree(&mut self, path: &str, folder: &Path, left_out: &[&str]) -> Result<()> {
        let unreadable = || format!("cannot copy {} into a guest", folder.display());
        for entry in fs::read_dir(folder).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if left_out.contains(&name.as_ref()) {
                continue;
            }
            let path = format!("{path}/{name}");
            let source = entry.path();
            let kind = entry.file_type().with_context(unreadable)?;
            if kind.is_dir() {
                self.add_tree(&path, &source, left_out)?;
            } else if kind.is_file() {
                let content = fs::read(&source)
                    .with_context(|| format!("cannot read {}", source.display()))?;
                self.add_content(&path, &content);
            }
        }
        Ok(())
    }

    /// Adds a plain file with this content.
    pub(crate) fn add_content(&mut self, path: &str, content: &[u8]) {
        self.archive.file(path, 0o644, content);
    }

    /// Adds busybox under the name of each of its commands, which the host's own busybox lists.
    pub(crate) fn add_busybox(&mut self, busybox: &Path, own: &Path) -> Result<()> {
        self.add_file("/bin/busybox", busybox)?;
        let commands = process::output(std::process::Command::new(own).arg("--list"))?;
        for command in commands.lines() {
            self.archive.link(&format!("/bin/{command}"), "busybox");
        }
        Ok(())
    }

    /// Returns the finished image with its job.
    pub(crate) fn finish(mut self, job: &Job) -> Vec<u8> {
        self.add_content(job::PATH, &job.encode());
        self.archive.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_added_without_what_is_left_out_and_links() {
        let folder = std::env::temp_dir().join(format!("xtask-tree-{}", std::process::id()));
        for path in ["package/test", "test"] {
            fs::create_dir_all(folder.join(path)).unwrap();
        }
        for path in [
            "init",
            "package/module.py",
            "package/test/more.py",
            "test/case.py",
        ] {
            fs::write(folder.join(path), path).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", folder.join("package/link.py")).unwrap();
        let mut image = Image::new(Arch::HOST, &folder.join("init"), &[]).unwrap();
        let before = image.archive.paths.clone();
        image.add_tree("/lib/tree", &folder, &["test"]).unwrap();
        fs::remove_dir_all(&folder).unwrap();

        let added: Vec<_> = image.archive.paths.difference(&before).collect();
        assert_eq!(
            added,
            [
                "/lib/tree",
                "/lib/tree/init",
                "/lib/tree/package",
                "/lib/tree/package/module.py"
            ]
        );
    }
}
