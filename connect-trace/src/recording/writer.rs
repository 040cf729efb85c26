//! Writes a recording in batches of connections: if the process is killed, only the last batch is lost.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{
    columns,
    frames::{self, MOST_CONTENTS},
    notes::{End, Start},
};
use crate::{
    connect::{Connect, ConnectionEvent},
    files,
};

/// Maximum number of rows in a batch.
pub const BATCH_EVENTS: usize = 8192;
/// Maximum time that a connection waits for its batch to be written.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Compression level of zstd: higher levels take longer and hardly reduce the size.
const LEVEL: i32 = 1;

/// A recording that is being written.
pub struct Writer {
    path: PathBuf,
    file: File,
    regular: bool,
    /// True if the file did not exist before.
    created: bool,
    compressor: Compressor<'static>,
    /// Lines of the batch, and their number in `events`, and of those the events of connections.
    lines: Vec<u8>,
    events: usize,
    ends: usize,
    /// Time of the first connection of the batch.
    since: Instant,
    /// Connections in the file, and events of connections.
    kept: u64,
    kept_ends: u64,
    /// Bytes of the file that are complete frames.
    whole: u64,
}

impl Writer {
    /// Opens a new file, an empty one, or a pipe or device. Nothing is written yet.
    ///
    /// # Errors
    /// If the file is not empty, or cannot be opened for writing.
    pub fn create(path: &Path) -> Result<Self> {
        // Names of processes and addresses are private.
        const OWNER_ONLY: u32 = 0o600;
        let created = files::create("--record", path, OWNER_ONLY)?;
        Ok(Self {
            path: path.to_owned(),
            regular: created.is_regular,
            created: created.is_new,
            file: created.file,
            compressor: compressor().context("set zstd up")?,
            lines: Vec::new(),
            events: 0,
            ends: 0,
            since: Instant::now(),
            kept: 0,
            kept_ends: 0,
            whole: 0,
        })
    }

    /// Writes the beginning of the recording.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn begin(&mut self, start: &Start) -> io::Result<()> {
        self.write(&[frames::head(), frames::note(&start.text())].concat())
    }

    /// Adds a connection.
    ///
    /// # Errors
    /// If a batch is full and cannot be written.
    pub fn connect(&mut self, connect: &Connect) -> io::Result<()> {
        self.add(|lines| columns::write(lines, connect))
    }

    /// Adds an event of a connection.
    ///
    /// # Errors
    /// If a batch is full and cannot be written.
    pub fn ended(&mut self, event: &ConnectionEvent) -> io::Result<()> {
        self.ends += 1;
        self.add(|lines| columns::write_event(lines, event))
    }

    fn add(&mut self, line: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        if self.events == 0 {
            self.since = Instant::now();
        }
        line(&mut self.lines);
        self.events += 1;
        if self.events == BATCH_EVENTS {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the batch if its first connection has waited for a second.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush_if_due(&mut self) -> io::Result<()> {
        if self.events > 0 && self.since.elapsed() >= BATCH_TIME {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the last batch and the end.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&mut self, end: impl FnOnce(u64) -> End) -> io::Result<()> {
        self.flush()?;
        let end = End {
            ends: self.kept_ends,
            ..end(self.kept)
        };
        self.write(&frames::note(&end.text()))
    }

    /// Connections in the file.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.events == 0 {
            return Ok(());
        }
        debug_assert!(self.lines.len() <= MOST_CONTENTS);
        let frame = self.compressor.compress(&self.lines)?;
        let ends = self.ends as u64;
        let events = self.events as u64 - ends;
        // A batch is tried only once, even if it cannot be written.
        self.lines.clear();
        self.events = 0;
        self.ends = 0;
        self.write(&frame)?;
        self.kept += events;
        self.kept_ends += ends;
        Ok(())
    }

    /// Writes all of the frames or none.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(frames);
        match written {
            Ok(()) => self.whole += frames.len() as u64,
            // The part that was written is cut off; if that fails too, the reader drops it.
            Err(_) if self.regular => drop(self.file.set_len(self.whole)),
            Err(_) => {}
        }
        written
    }
}

impl Drop for Writer {
    /// Removes the file if it is new and empty.
    fn drop(&mut self) {
        if self.created && self.whole == 0 {
            // Errors are ignored: the file is empty.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Creates a compressor for frames with a checksum.
pub(super) fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}
