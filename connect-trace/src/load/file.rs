//! The file of `--csv`: whole, or not there at all.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    attempt::Attempt,
    log::{self, Head},
};
use crate::term::printable::printable;

/// Where the attempts are to go.
pub struct LogFile {
    path: PathBuf,
    /// What becomes the file; `None` where it is something else than a file, such as a pipe.
    temporary: Option<PathBuf>,
}

impl LogFile {
    /// Checks that it can be written, before the work is done whose result it is to hold.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn prepare(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write {}", printable(path));
        let is_special = fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir());
        let temporary = (!is_special).then(|| beside(path));
        match &temporary {
            None => drop(
                File::options()
                    .write(true)
                    .open(path)
                    .with_context(cannot)?,
            ),
            Some(temporary) => {
                if path.is_dir() {
                    anyhow::bail!("cannot write {}: it is a folder", printable(path));
                }
                File::create(temporary).with_context(cannot)?;
                fs::remove_file(temporary).with_context(cannot)?;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            temporary,
        })
    }

    /// Writes it. What was there before stays until all is written.
    ///
    /// # Errors
    /// Where it cannot be written; then nothing new is left behind.
    pub fn write(&self, head: &Head, attempts: &[Attempt]) -> Result<()> {
        let to = self.temporary.as_deref().unwrap_or(&self.path);
        let interrupts = Interrupts::hold();
        let written = write_to(to, head, attempts).and_then(|()| match &self.temporary {
            Some(temporary) => Ok(fs::rename(temporary, &self.path)?),
            None => Ok(()),
        });
        if let (Err(_), Some(temporary)) = (&written, &self.temporary) {
            let _ = fs::remove_file(temporary);
        }
        drop(interrupts);
        written.with_context(|| format!("cannot write {}", printable(&self.path)))
    }
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

fn write_to(path: &Path, head: &Head, attempts: &[Attempt]) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    log::write(&mut file, head, attempts)?;
    file.flush()?;
    Ok(())
}

/// A name in the same folder, so that it can be renamed; of this process alone.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_before_and_leaves_nothing() {
        let folder =
            std::env::temp_dir().join(format!("connect-trace-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for wrong in [
            folder.clone(),
            folder.join("no/such/folder.csv"),
            "/".into(),
        ] {
            let why = LogFile::prepare(&wrong).err().unwrap();
            assert!(format!("{why:#}").starts_with("cannot write "), "{why:#}");
        }
        LogFile::prepare(&folder.join("good.csv")).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        LogFile::prepare("/dev/null".as_ref()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
