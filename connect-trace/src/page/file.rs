//! A file that is there whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};

/// A file to be: until [`finish`](Self::finish) it has another name beside its own.
pub(super) struct NewFile {
    path: PathBuf,
    /// Absent where the name is that of a device or pipe, which is written to as it is.
    temporary: Option<PathBuf>,
    file: File,
}

impl NewFile {
    /// Finds out whether there can be such a file. One that is there is replaced in the end.
    ///
    /// # Errors
    /// Where it cannot be created; the message begins with `option` and the name.
    pub(super) fn create(option: &str, path: &Path) -> Result<Self> {
        Self::open(path).with_context(|| format!("{option} {}", path.display()))
    }

    fn open(path: &Path) -> Result<Self> {
        let there = fs::metadata(path).ok();
        if there.as_ref().is_some_and(fs::Metadata::is_dir) {
            bail!("is a directory; name a file");
        }
        let name = path.file_name().context("names no file")?;
        let temporary = there.is_none_or(|there| there.is_file()).then(|| {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}.part", process::id()));
            path.with_file_name(hidden)
        });
        let mut options = OpenOptions::new();
        let opened = match &temporary {
            Some(temporary) => options.write(true).create_new(true).open(temporary),
            None => options.write(true).open(path),
        };
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                anyhow::anyhow!("there is no such directory to create it in")
            }
            _ => anyhow::anyhow!("cannot be created: {error}"),
        })?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            file,
        })
    }

    /// Writes it and gives it its name.
    ///
    /// # Errors
    /// Where there is no room for it; then nothing is left of it.
    pub(super) fn finish(mut self, option: &str, contents: &str) -> Result<()> {
        let written = self.file.write_all(contents.as_bytes());
        let named = written.and_then(|()| match &self.temporary {
            Some(temporary) => fs::rename(temporary, &self.path),
            None => Ok(()),
        });
        named.with_context(|| format!("{option} {}: cannot be written", self.path.display()))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Errors change nothing: it may be gone already.
            let _ = fs::remove_file(temporary);
        }
    }
}
