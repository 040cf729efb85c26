//! Files that the command line names, for reading or writing. The name `-` means stdin or stdout.

pub(crate) mod whole;

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    os::{fd::AsFd, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::term::printable::printable;

/// Returns true if `-` was given, which means stdin or stdout. A file of that name is `./-`.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file for reading. `in_it` describes what to name instead of a directory, such as "the log".
///
/// # Errors
/// If the file does not exist, is a directory, or cannot be read.
pub(crate) fn open(path: &Path, in_it: &str) -> Result<File> {
    let name = printable(path);
    let opened = if is_standard(path) {
        duplicate(io::stdin())
    } else {
        File::open(path)
    };
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("{name}: there is no such file"),
        _ => anyhow!("{name}: cannot be read: {error}"),
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{name}: is a directory; name {in_it} in it");
    }
    Ok(file)
}

/// An empty file, pipe or device that was opened for writing.
pub(crate) struct Created {
    /// The file.
    pub(crate) file: File,
    /// True if the file did not exist before.
    pub(crate) is_new: bool,
    /// True for a regular file, false for a pipe, device or socket.
    pub(crate) is_regular: bool,
}

/// Opens a file for writing without overwriting anything: a new file with this mode, an empty file, or a
/// pipe, device or socket.
///
/// # Errors
/// If the file is not empty, or cannot be created; the message begins with `option` and the name.
pub(crate) fn create(option: &str, path: &Path, mode: u32) -> Result<Created> {
    let name = printable(path);
    let (file, is_new) = open_or_create(path, mode).map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => anyhow!("{option} {name}: is a directory; name a file"),
        ErrorKind::NotFound => {
            anyhow!("{option} {name}: there is no such directory to create it in")
        }
        _ => anyhow!("{option} {name}: cannot be created: {error}"),
    })?;
    let metadata = file
        .metadata()
        .with_context(|| format!("{option} {name}: its attributes cannot be read"))?;
    // The shell may have opened a file that is not empty for stdout, to append to it.
    if !is_standard(path) {
        refuse_to_overwrite(option, path, &metadata)?;
    }
    Ok(Created {
        file,
        is_new,
        is_regular: metadata.is_file() && !is_standard(path),
    })
}

fn open_or_create(path: &Path, mode: u32) -> io::Result<(File, bool)> {
    if is_standard(path) {
        return Ok((stdout()?, false));
    }
    let mut options = OpenOptions::new();
    options.write(true).mode(mode);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

/// Checks that the file of this name is still empty.
///
/// # Errors
/// If the file is not empty.
pub(crate) fn check_empty(option: &str, path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(metadata) => refuse_to_overwrite(option, path, &metadata),
        Err(_) => Ok(()),
    }
}

fn refuse_to_overwrite(option: &str, path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() && metadata.len() > 0 {
        bail!(
            "{option} {}: the file is not empty and is not overwritten; give another name, or remove it first",
            printable(path)
        );
    }
    Ok(())
}

/// Returns stdout without its buffer.
pub(crate) fn stdout() -> io::Result<File> {
    duplicate(io::stdout())
}

fn duplicate(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
