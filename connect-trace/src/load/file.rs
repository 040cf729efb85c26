//! The file of `--csv`: whole, or not there at all.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Seek as _, Write as _},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};

use super::{attempt::Attempt, log::Head};
use crate::{
    files,
    term::{printable::printable, stdout::Refused},
};

/// The option that names the file.
const OPTION: &str = "--csv";

/// The file of attempts. They are kept in a file without a name until all runs are known, which its first
/// line tells of.
pub struct LogFile {
    path: PathBuf,
    to: To,
    attempts: csv::Writer<File>,
}

enum To {
    /// A regular file, and its name until it is whole.
    Name(PathBuf),
    /// A pipe, a device, or stdout.
    Open(File),
}

impl LogFile {
    /// Checks that it can be written, before the work is done whose result it is to hold.
    ///
    /// # Errors
    /// Says that the file holds something, or why it cannot be created.
    pub fn prepare(path: &Path) -> Result<Self> {
        const READABLE_BY_ALL: u32 = 0o666;
        let created = files::create(OPTION, path, READABLE_BY_ALL)?;
        if created.is_new {
            fs::remove_file(path).with_context(|| cannot_be_written(path))?;
        }
        let (to, nameless) = if created.is_regular {
            let hidden = beside(path);
            (To::Name(hidden.clone()), hidden)
        } else {
            let elsewhere = beside(&env::temp_dir().join("connect-trace"));
            (To::Open(created.file), elsewhere)
        };
        let attempts = without_name(&nameless)
            .with_context(|| format!("{OPTION} {}: {}", printable(path), printable(&nameless)))?;
        Ok(Self {
            path: path.to_owned(),
            to,
            attempts: csv::Writer::from_writer(attempts),
        })
    }

    /// Adds an attempt.
    ///
    /// # Errors
    /// Says that there is no room for it.
    pub fn add(&mut self, attempt: &Attempt) -> Result<()> {
        let added = self.attempts.serialize(attempt);
        added.with_context(|| cannot_be_written(&self.path))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Says that it cannot be written; then nothing new is left behind.
    pub fn write(self, head: &Head) -> Result<()> {
        let Self { path, to, attempts } = self;
        let attempts = attempts
            .into_inner()
            .map_err(csv::IntoInnerError::into_error)
            .with_context(|| cannot_be_written(&path))?;
        match to {
            To::Open(file) if files::is_standard(&path) => {
                copy(file, head, attempts).map_err(|error| Refused::wrap(error).into())
            }
            To::Open(file) => copy(file, head, attempts).with_context(|| cannot_be_written(&path)),
            To::Name(hidden) => {
                let _interrupts = Interrupts::hold();
                let written = write_whole(&hidden, &path, head, attempts);
                if written.is_err() {
                    let _ = fs::remove_file(&hidden);
                }
                written
            }
        }
    }
}

fn write_whole(hidden: &Path, path: &Path, head: &Head, attempts: File) -> Result<()> {
    File::create(hidden)
        .and_then(|file| copy(file, head, attempts))
        .with_context(|| cannot_be_written(path))?;
    // It may have come meanwhile.
    files::check_empty(OPTION, path)?;
    fs::rename(hidden, path).with_context(|| cannot_be_written(path))
}

fn copy(mut to: File, head: &Head, mut attempts: File) -> io::Result<()> {
    to.write_all(head.line()?.as_bytes())?;
    attempts.rewind()?;
    io::copy(&mut attempts, &mut to)?;
    Ok(())
}

/// Creates a file that goes when it is closed, however this process ends.
fn without_name(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    fs::remove_file(path)?;
    Ok(file)
}

fn cannot_be_written(path: &Path) -> String {
    format!("{OPTION} {}: cannot be written", printable(path))
}

/// Holds back what would end this process with half a file written, as Ctrl-C does.
struct Interrupts {
    before: libc::sigset_t,
}

impl Interrupts {
    fn hold() -> Self {
        // SAFETY: the sets are plain memory that these calls fill or read, and the signals are valid.
        unsafe {
            let mut held: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut held);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut held, signal);
            }
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const held, &raw mut before);
            Self { before }
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in place before.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.before,
                std::ptr::null_mut(),
            );
        }
    }
}

/// A name in the same folder, so that it can be renamed; of this process alone.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
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
