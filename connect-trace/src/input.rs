//! A file that somebody named to have it read.

use std::{fs::File, io::ErrorKind, path::Path};

use anyhow::{Result, anyhow, bail};

use crate::term::printable::printable;

/// Opens it. `in_it` is what to name instead of a directory, such as "the log".
///
/// # Errors
/// Says that it is not there, is a directory, or cannot be read.
pub(crate) fn open(path: &Path, in_it: &str) -> Result<File> {
    let name = printable(path);
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("{name}: there is no such file"),
        _ => anyhow!("{name}: cannot be read: {error}"),
    })?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{name}: is a directory; name {in_it} in it");
    }
    Ok(file)
}
