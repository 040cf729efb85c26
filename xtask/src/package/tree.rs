//! Files of a package in memory, in the order of their paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

const PROGRAM: u32 = 0o755;
const FILE: u32 = 0o644;

/// Files by their paths, which are relative.
#[derive(Default)]
pub(super) struct Tree {
    files: BTreeMap<String, File>,
}

struct File {
    mode: u32,
    content: Vec<u8>,
}

impl Tree {
    /// Adds a plain file.
    pub(super) fn add(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, FILE, content.into());
    }

    /// Adds a program or a script.
    pub(super) fn add_program(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, PROGRAM, content.into());
    }

    /// Adds the files with this extension in a folder.
    pub(super) fn add_folder(&mut self, path: &str, folder: &Path, extension: &str) -> Result<()> {
        let unreadable = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(folder).with_context(unreadable)? {
            let file = entry.with_context(unreadable)?.path();
            if file.extension().is_some_and(|found| found == extension) {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let content =
                    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                self.add(&format!("{path}/{name}"), content);
            }
        }
        Ok(())
    }

    /// Adds all files of another tree below a folder.
    pub(super) fn add_tree(&mut self, folder: &str, tree: Self) {
        for (path, file) in tree.files {
            self.files.insert(format!("{folder}/{path}"), file);
        }
    }

    fn insert(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.files.insert(path.to_owned(), File { mode, content });
    }

    /// Returns the paths and contents.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(path, file)| (path.as_str(), file.content.as_slice()))
    }

    /// Writes the files into a folder, which is replaced.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        for (path, file) in &self.files {
            let path = folder.join(path);
            let above = path.ancestors().skip(1);
            let below = above.take_while(|above| above.starts_with(folder));
            write(&path, file, below)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Returns a tar archive of the files and their folders, all of root and of this time.
    pub(super) fn tar(&self, epoch: u64) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut folders = BTreeSet::new();
        for (path, file) in &self.files {
            for (at, _) in path.match_indices('/') {
                let folder = &path[..=at];
                if folders.insert(folder) {
                    let mut header = header(EntryType::Directory, PROGRAM, 0, epoch);
                    archive.append_data(&mut header, folder, io::empty())?;
                }
            }
            let size = file.content.len() as u64;
            let mut header = header(EntryType::Regular, file.mode, size, epoch);
            archive.append_data(&mut header, path, file.content.as_slice())?;
        }
        archive.into_inner()
    }
}

fn header(kind: EntryType, mode: u32, size: u64, epoch: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(epoch);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Writes a file, after the folders that it is in, whose permissions do not depend on the umask.
fn write<'a>(path: &Path, file: &File, folders: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    for (index, folder) in folders.enumerate() {
        if index == 0 {
            fs::create_dir_all(folder)?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(PROGRAM))?;
    }
    fs::write(path, &file.content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(file.mode))
}

/// Compresses data, without a name and a time.
pub(super) fn gzip(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut writer = GzBuilder::new().write(Vec::new(), Compression::best());
    writer.write_all(data)?;
    writer.finish()
}
