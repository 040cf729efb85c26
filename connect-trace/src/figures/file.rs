//! A file that is there whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    files,
    term::{printable::printable, stdout::Refused},
};

/// A file to be.
pub(super) struct NewFile {
    path: PathBuf,
    /// Its name until it is whole, beside its own. Absent where it is a device or pipe, which is written
    /// to as it is.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Finds out whether there can be such a file; nothing is left of the trial. One that is there is
    /// replaced in the end.
    ///
    /// # Errors
    /// Where it cannot be created; the message begins with `option` and the name.
    pub(super) fn check(option: &str, path: &Path) -> Result<Self> {
        if files::is_standard(path) {
            return Ok(Self {
                path: path.to_owned(),
                temporary: None,
            });
        }
        let check = || {
            // A link stays one: what it leads to is replaced.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let there = fs::metadata(&path).ok();
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
            let new = Self { path, temporary };
            new.open().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => anyhow!("there is no such directory to create it in"),
                _ => anyhow!("cannot be created: {error}"),
            })?;
            new.remove_part();
            Ok(new)
        };
        check().with_context(|| format!("{option} {}", printable(path)))
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        match &self.temporary {
            Some(temporary) => options.write(true).create_new(true).open(temporary),
            None if files::is_standard(&self.path) => files::stdout(),
            None => options.write(true).open(&self.path),
        }
    }

    /// Writes it and gives it its name.
    ///
    /// # Errors
    /// Where there is no room for it; then nothing is left of it.
    pub(super) fn write(&self, option: &str, contents: &str) -> Result<()> {
        let written = || {
            self.open()?.write_all(contents.as_bytes())?;
            match &self.temporary {
                Some(temporary) => fs::rename(temporary, &self.path),
                None => Ok(()),
            }
        };
        written().map_err(|error| {
            self.remove_part();
            if files::is_standard(&self.path) {
                return Refused::wrap(error).into();
            }
            anyhow!(
                "{option} {}: cannot be written: {error}",
                printable(&self.path)
            )
        })
    }

    fn remove_part(&self) {
        if let Some(temporary) = &self.temporary {
            // Errors change nothing: it may not be there.
            let _ = fs::remove_file(temporary);
        }
    }
}
