//! The options of a recording.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{
    connect::Connect,
    files::is_standard,
    options::values::{duration, file_size, latency, whole_percent},
    rules::Condition,
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

/// Condition for which a recording is kept, unless others are chosen.
const DEFAULT_CONDITION: &str = "errno == EADDRNOTAVAIL";

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

    /// With a folder, hold the last TIME in memory, up to --record-size, and write it as a file only when --keep-when holds
    #[arg(long, value_name = "TIME", requires = "record", value_parser = duration)]
    pub keep: Option<Duration>,

    /// Write what --keep holds when a call meets this condition, such as 'latency > 10ms' or 'taken >= 50%'; docs/rules.md
    /// has them. Can be repeated [default: errno == EADDRNOTAVAIL]
    #[arg(long, value_name = "CONDITION", requires = "keep", value_parser = condition)]
    pub keep_when: Vec<Condition>,

    /// With --ports, write what --keep holds, too, when the connections of a route hold more than PERCENT of its ports
    #[arg(long, value_name = "PERCENT", requires = "keep", value_parser = whole_percent)]
    pub keep_above: Option<u32>,

    /// Write at most one file in TIME because of --keep-when [default: the TIME of --keep]
    #[arg(long, value_name = "TIME", requires = "keep", value_parser = duration)]
    pub keep_every: Option<Duration>,

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

/// A recording that is held in memory until a condition holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Keep {
    /// Time that is held.
    pub time: Duration,
    /// Any of these conditions on a call.
    pub when: Vec<Condition>,
    /// Share of its range that a route may hold, in percent; `None` for any.
    pub above: Option<u32>,
    /// Minimum time between two files.
    pub every: Duration,
}

impl Keep {
    /// Returns a condition that holds for a connection, in words.
    pub(super) fn condition(
        &self,
        connect: &Connect,
        percent_in_use: impl FnOnce() -> Option<f64>,
    ) -> Option<String> {
        let mut conditions = self.when.iter();
        if let Some(condition) = conditions.find(|condition| condition.holds_for(connect)) {
            return Some(condition.to_string());
        }
        let above = self.above?;
        (percent_in_use()? > f64::from(above)).then(|| format!("ports in use > {above}%"))
    }
}

fn condition(text: &str) -> Result<Condition, String> {
    Condition::parse_for_call(text).map_err(|error| error.to_string())
}

impl RecordArgs {
    /// Returns true if the recording is written to stdout.
    #[must_use]
    pub fn uses_stdout(&self) -> bool {
        self.record.as_deref().is_some_and(is_standard)
    }

    /// Returns a message if the options do not fit together. `has_ports` is true with `--ports`.
    pub(crate) fn contradiction(&self, has_ports: bool) -> Option<String> {
        if self.keep_above.is_some() && !has_ports {
            return Some("--keep-above needs --ports, which counts the ports of routes".to_owned());
        }
        let limits = self.limits().err();
        let error = limits.or_else(|| self.kept().err())?;
        Some(error.to_string())
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

    /// Returns how the recording is held in memory; `None` if it is written at once.
    ///
    /// # Errors
    /// If there is no folder for it, or options contradict each other.
    pub(super) fn kept(&self) -> Result<Option<Keep>> {
        let Some(time) = self.keep else {
            return Ok(None);
        };
        ensure!(
            self.folder().is_some(),
            "--keep writes a file for each time that a condition holds: put a / at the end of --record's name"
        );
        ensure!(
            self.record_time.is_none(),
            "--keep and --record-time contradict each other: a file has the TIME of --keep"
        );
        let when = if self.keep_when.is_empty() {
            vec![Condition::parse_for_call(DEFAULT_CONDITION)?]
        } else {
            self.keep_when.clone()
        };
        Ok(Some(Keep {
            time,
            when,
            above: self.keep_above,
            every: self.keep_every.unwrap_or(time),
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
