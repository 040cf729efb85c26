//! The file of `--csv`.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{attempt::Attempt, log::Head};
use crate::files::whole::WholeFile;

/// The file of attempts. Attempts are kept in a file without a name until all runs are known, because the
/// first line describes the runs.
pub(crate) struct LogFile {
    file: WholeFile,
    attempts: csv::Writer<File>,
}

impl LogFile {
    /// Checks, before the runs are made, that their results can be written.
    ///
    /// # Errors
    /// If the file is not empty, or cannot be created.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        let file = WholeFile::new("--csv", path)?;
        let attempts = csv::Writer::from_writer(file.scratch()?);
        Ok(Self { file, attempts })
    }

    /// Adds an attempt.
    ///
    /// # Errors
    /// If there is no room for it.
    pub(crate) fn add(&mut self, attempt: &Attempt) -> Result<()> {
        let added = self.attempts.serialize(attempt);
        added.with_context(|| self.file.says("cannot be written"))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the file cannot be written; no new file is left behind then.
    pub(crate) fn write(self, head: &Head) -> Result<()> {
        let Self { file, attempts } = self;
        let mut attempts = attempts
            .into_inner()
            .map_err(csv::IntoInnerError::into_error)
            .with_context(|| file.says("cannot be written"))?;
        file.write(|mut to| {
            to.write_all(head.line()?.as_bytes())?;
            attempts.rewind()?;
            io::copy(&mut attempts, &mut to)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_before_and_leaves_nothing() {
        let folder = env::temp_dir().join(format!("connect-trace-file-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        for wrong in [
            folder.clone(),
            folder.join("no/such/folder.csv"),
            "/".into(),
        ] {
            let why = LogFile::prepare(&wrong).err().unwrap();
            assert!(format!("{why:#}").starts_with("--csv "), "{why:#}");
        }
        LogFile::prepare(&folder.join("good.csv")).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        LogFile::prepare("/dev/null".as_ref()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
