//! A file that is written completely or not at all: under a hidden name beside its own, and renamed at the end.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process, ptr,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{check_empty, create, is_standard, stdout};
use crate::term::{printable::printable, stdout::Refused};

/// A file to write.
pub(crate) struct WholeFile {
    option: &'static str,
    path: PathBuf,
    to: To,
    replaces: bool,
}

enum To {
    /// A regular file, by its hidden name.
    Hidden(PathBuf),
    /// A pipe, a device, or stdout, which is written directly.
    Open(File),
}

impl WholeFile {
    /// Prepares a file that may replace another one. The check leaves no file behind.
    ///
    /// # Errors
    /// If the file cannot be created; the message begins with `option` and the name.
    pub(crate) fn replacing(option: &'static str, path: &Path) -> Result<Self> {
        let prepare = || {
            if is_standard(path) {
                return Ok((path.to_owned(), To::Open(stdout()?)));
            }
            // A symbolic link is kept: the file that it points to is replaced.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let to = match fs::metadata(&path) {
                Ok(there) if there.is_dir() => bail!("is a directory; name a file"),
                Ok(there) if !there.is_file() => {
                    let opened = File::options().write(true).open(&path);
                    To::Open(opened.map_err(|error| anyhow!("cannot be created: {error}"))?)
                }
                _ => To::Hidden(hidden_beside(&path)?),
            };
            Ok((path, to))
        };
        let (path, to) = prepare().with_context(|| format!("{option} {}", printable(path)))?;
        Ok(Self {
            option,
            path,
            to,
            replaces: true,
        })
    }

    /// Prepares a new file, which must not replace a file that is not empty. The check leaves no file behind.
    ///
    /// # Errors
    /// If there is such a file, or the new one cannot be created; the message begins with `option` and the name.
    pub(crate) fn new(option: &'static str, path: &Path) -> Result<Self> {
        const READABLE_BY_ALL: u32 = 0o666;
        let created = create(option, path, READABLE_BY_ALL)?;
        let context = || format!("{option} {}", printable(path));
        if created.is_new {
            fs::remove_file(path).with_context(context)?;
        }
        let to = if created.is_regular {
            To::Hidden(hidden_beside(path).with_context(context)?)
        } else {
            To::Open(created.file)
        };
        Ok(Self {
            option,
            path: path.to_owned(),
            to,
            replaces: false,
        })
    }

    /// Creates a file without a name, on the same disk if that is known. It disappears when it is closed,
    /// even if this process is killed.
    ///
    /// # Errors
    /// If it cannot be created.
    pub(crate) fn scratch(&self) -> Result<File> {
        let path = match &self.to {
            To::Hidden(hidden) => hidden.clone(),
            To::Open(_) => beside(&env::temp_dir().join("connect-trace")),
        };
        let create = || {
            let _ = fs::remove_file(&path);
            let mut options = File::options();
            let file = options
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            fs::remove_file(&path)?;
            io::Result::Ok(file)
        };
        create().with_context(|| self.says(&printable(&path).to_string()))
    }

    /// Writes the file and gives it its name.
    ///
    /// # Errors
    /// If the file cannot be written; no hidden file is left then.
    pub(crate) fn write(self, fill: impl FnOnce(File) -> io::Result<()>) -> Result<()> {
        let cannot_be_written = self.says("cannot be written");
        match self.to {
            To::Open(file) if is_standard(&self.path) => {
                fill(file).map_err(|error| Refused::wrap(error).into())
            }
            To::Open(file) => fill(file).context(cannot_be_written),
            To::Hidden(hidden) => {
                let _interrupts = Interrupts::hold();
                let write = || {
                    File::create(&hidden)
                        .and_then(fill)
                        .with_context(|| cannot_be_written.clone())?;
                    if !self.replaces {
                        // Another program may have created the file meanwhile.
                        check_empty(self.option, &self.path)?;
                    }
                    fs::rename(&hidden, &self.path).with_context(|| cannot_be_written.clone())
                };
                write().inspect_err(|_| {
                    let _ = fs::remove_file(&hidden);
                })
            }
        }
    }

    /// Returns a message that begins with the option and the file's name.
    pub(crate) fn says(&self, what: &str) -> String {
        format!("{} {}: {what}", self.option, printable(&self.path))
    }
}

/// Returns a hidden name beside a file, after creating and removing a file of that name as a check.
fn hidden_beside(path: &Path) -> Result<PathBuf> {
    path.file_name().context("names no file")?;
    let hidden = beside(path);
    File::create(&hidden).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("there is no such directory to create it in"),
        _ => anyhow!("cannot be created: {error}"),
    })?;
    // An error is ignored: the file that stays behind is empty, and is written in the end.
    let _ = fs::remove_file(&hidden);
    Ok(hidden)
}

/// Returns a name for this process in the same folder, so that the file can be renamed.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", process::id()));
    path.with_file_name(name)
}

/// Blocks the signals that would end this process with the file half written, as Ctrl-C does.
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
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}
