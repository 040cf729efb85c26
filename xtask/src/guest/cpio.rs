//! Writer of cpio archives in the format that the kernel unpacks as its initramfs ("newc").

use std::collections::BTreeSet;

/// Bits of a mode for the kind of an entry, from `stat.h`.
const FOLDER: u32 = 0o040_000;
const DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// User id and group id of an entry.
pub(crate) type Owner = (u32, u32);

/// Owner of all entries that do not name another.
const ROOT: Owner = (0, 0);

/// An archive in memory. The folders above an entry are added with it. If a path is added twice, the first entry stays.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    /// Paths of the entries.
    pub(super) paths: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.folder_of(path, 0o755, ROOT);
    }

    /// Adds a folder with these permissions and this owner.
    pub(crate) fn folder_of(&mut self, path: &str, permissions: u32, owner: Owner) {
        self.add(path, FOLDER | permissions, owner, (0, 0), &[]);
    }

    /// Adds a file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.file_of(path, permissions, ROOT, content);
    }

    /// Adds a file with these permissions and this owner.
    pub(crate) fn file_of(&mut self, path: &str, permissions: u32, owner: Owner, content: &[u8]) {
        self.add(path, FILE | permissions, owner, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, LINK | 0o777, ROOT, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, DEVICE | 0o600, ROOT, (major, minor), &[]);
    }

    /// Returns the finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, ROOT, (0, 0), &[]);
        self.bytes
    }

    /// Adds an entry, unless its path is there, after the folders above it.
    fn add(&mut self, path: &str, mode: u32, owner: Owner, device: (u32, u32), content: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
        {
            self.folder(parent);
        }
        if self.paths.insert(path.to_owned()) {
            self.entry(path, mode, owner, device, content);
        }
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        (owner, group): Owner,
        device: (u32, u32),
        content: &[u8],
    ) {
        let path = path.trim_start_matches('/');
        self.entries += 1;
        let (inode, links) = (self.entries, 1);
        let (time, checksum) = (0, 0);
        // A file of 4 GiB would not fit into a guest anyway.
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        for number in [
            inode,
            mode,
            owner,
            group,
            links,
            time,
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            checksum,
        ] {
            self.bytes
                .extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_kernel_expects() {
        let mut archive = Archive::default();
        archive.folder("/bin");
        archive.file("/bin/hi", 0o755, b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes.clone()).unwrap();

        assert!(bytes.len().is_multiple_of(4));
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        // Header (110), name and NUL (4): no padding of the folder's entry, as 114 + 2 = 116.
        let file = &text[116..];
        assert!(file.starts_with("07070100000002000081ed"), "{file}");
        assert_eq!(&file[54..62], "00000005", "the content's length");
        assert_eq!(&file[110..118], "bin/hi\0\0");
        assert_eq!(&file[118..125], "\0\0hello");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
