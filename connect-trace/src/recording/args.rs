//! The options of a recording.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    files::is_standard,
    options::values::{duration, file_size, latency},
    term::printable::printable,
};

/// Maximum number of bytes in a file of a folder, unless another one is chosen.
const DEFAULT_SIZE: u64 = 64 << 20;
/// Maximum number of bytes of all files in a folder, unless another one is chosen.
const DEFAULT_KEEP: u64 = 1 << 30;
/// Time after which a folder gets another file, unless another one is chosen.
const DEFAULT_TIME: Duration = Duration::from_hours(1);
/// Minimum number of files for which a folder has room, so that those of the past are worth keeping.
const FEWEST_FILES: u64 = 4;
/// Number of files for which a folder has room if only that room was chosen.
const USUAL_FILES: u64 = 16;

/// Recording.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Recording")]
pub struct RecordArgs {
    /// Write every connect() to this new file, for `connect-trace report` and other tools. With -, write to stdout, and
    /// print everything else on stderr. With a / at its end, write one file after another into this folder, and remove
    /// the oldest
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// With a folder, begin another file when one has this size [default: 64M, or less with a small --record-keep]
    #[arg(long, value_name = "SIZE", requires = "record", value_parser = file_size)]
    pub record_size: Option<u64>,

    /// With a folder, begin another file after this time, and at midnight UTC [default: 1h]
    #[arg(long, value_name = "TIME", requires = "record", value_parser = duration)]
    pub record_time: Option<Duration>,

    /// With a folder, maximum size of all files of this host in it: the oldest are removed [default: 1G]
    #[arg(long, value_name = "SIZE", requires = "record", value_parser = file_size)]
    pub record_keep: Option<u64>,

    /// Record only calls of this time or more, and failed ones; the others are summed up at the end of the file
    #[arg(long, value_name = "TIME", requires = "record", value_parser = latency)]
    pub record_min_latency: Option<Duration>,

    /// Record 1 in NUMBER of the other calls, at random, and all that failed or are slower than --record-min-latency
    #[arg(long, value_name = "NUMBER", requires = "record", value_parser = clap::value_parser!(u32).range(1..))]
    pub record_sample: Option<u32>,
}

/// Limits of the files in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Number of bytes at which a file is full.
    pub size: u64,
    /// Time after which a file is over.
    pub time: Duration,
    /// Maximum number of bytes of all files.
    pub keep: u64,
}

impl RecordArgs {
    /// Returns true if the recording is written to stdout.
    #[must_use]
    pub fn uses_stdout(&self) -> bool {
        self.record.as_deref().is_some_and(is_standard)
    }

    /// Returns a message if the options do not fit together.
    pub(crate) fn contradiction(&self) -> Option<String> {
        self.limits().err().map(|error| error.to_string())
    }

    /// Returns the folder for one file after another, if one is named.
    pub(crate) fn folder(&self) -> Option<&Path> {
        let path = self.record.as_deref()?;
        path.as_os_str().as_bytes().ends_with(b"/").then_some(path)
    }

    /// Returns the limits of the files in a folder; `None` for a single file.
    ///
    /// # Errors
    /// If there are limits without a folder, or too few files fit in it.
    pub(super) fn limits(&self) -> Result<Option<Limits>> {
        let Some(folder) = self.folder() else {
            let options = [
                ("--record-size", self.record_size.is_some()),
                ("--record-time", self.record_time.is_some()),
                ("--record-keep", self.record_keep.is_some()),
            ];
            for (option, given) in options {
                ensure!(
                    !given,
                    "{option} is for a folder: put a / at the end of --record's name"
                );
            }
            return Ok(None);
        };
        let keep = self.record_keep.unwrap_or(DEFAULT_KEEP);
        let size = self
            .record_size
            .unwrap_or(DEFAULT_SIZE.min(keep / USUAL_FILES));
        ensure!(
            size <= keep / FEWEST_FILES,
            "--record {}: --record-keep must be at least {FEWEST_FILES} times --record-size",
            printable(folder)
        );
        Ok(Some(Limits {
            size,
            time: self.record_time.unwrap_or(DEFAULT_TIME),
            keep,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> RecordArgs {
        RecordArgs {
            record: Some("records/".into()),
            ..RecordArgs::default()
        }
    }

    #[test]
    fn a_folder_has_room_for_some_files() {
        let limits = folder().limits().unwrap().unwrap();
        assert_eq!((limits.size, limits.keep), (DEFAULT_SIZE, DEFAULT_KEEP));
        let small = RecordArgs {
            record_keep: Some(16 << 20),
            ..folder()
        };
        assert_eq!(small.limits().unwrap().unwrap().size, 1 << 20);
        let large = RecordArgs {
            record_size: Some((4 << 20) + 1),
            ..small
        };
        let message = large.limits().unwrap_err().to_string();
        assert!(message.contains("4 times --record-size"), "{message}");
    }

    #[test]
    fn limits_need_a_folder() {
        let single = |record_time| RecordArgs {
            record: Some("file".into()),
            record_time,
            ..RecordArgs::default()
        };
        assert_eq!(single(None).limits().unwrap(), None);
        let message = single(Some(DEFAULT_TIME)).limits().unwrap_err().to_string();
        assert!(message.starts_with("--record-time is for"), "{message}");
    }
}
