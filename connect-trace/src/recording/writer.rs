//! Writes a recording, a batch of connects at a time: a kill loses no more than the last batch.

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
use crate::{connect::Connect, files};

/// Most connects of a batch.
pub const BATCH_EVENTS: usize = 8192;
/// Longest that a connect waits for its batch to be written.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Of zstd: higher ones take longer and make it no smaller to speak of.
const LEVEL: i32 = 1;

/// A recording that is being written.
pub struct Writer {
    path: PathBuf,
    file: File,
    regular: bool,
    /// Whether the file was not there before.
    created: bool,
    compressor: Compressor<'static>,
    /// Lines of the batch, and how many these are.
    lines: Vec<u8>,
    events: usize,
    /// When the first of them came.
    since: Instant,
    /// Connects that the file has.
    kept: u64,
    /// Bytes of the file that are whole frames.
    whole: u64,
}

impl Writer {
    /// Opens a new file, or an empty one, or what is no regular file. Nothing is written yet.
    ///
    /// # Errors
    /// Where the file holds anything already, or cannot be opened for writing.
    pub fn create(path: &Path) -> Result<Self> {
        // The names of processes and the addresses are nobody else's.
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
            since: Instant::now(),
            kept: 0,
            whole: 0,
        })
    }

    /// Writes what a recording begins with.
    ///
    /// # Errors
    /// Where the file refuses.
    pub fn begin(&mut self, start: &Start) -> io::Result<()> {
        self.write(&[frames::head(), frames::note(&start.text())].concat())
    }

    /// Adds a connect.
    ///
    /// # Errors
    /// Where a batch is full and the file refuses it.
    pub fn connect(&mut self, connect: &Connect) -> io::Result<()> {
        if self.events == 0 {
            self.since = Instant::now();
        }
        columns::write(&mut self.lines, connect);
        self.events += 1;
        if self.events == BATCH_EVENTS {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the batch if its first connect has waited for a second.
    ///
    /// # Errors
    /// Where the file refuses.
    pub fn flush_if_due(&mut self) -> io::Result<()> {
        if self.events > 0 && self.since.elapsed() >= BATCH_TIME {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is left, and the end.
    ///
    /// # Errors
    /// Where the file refuses.
    pub fn finish(&mut self, end: impl FnOnce(u64) -> End) -> io::Result<()> {
        self.flush()?;
        let end = end(self.kept);
        self.write(&frames::note(&end.text()))
    }

    /// Connects that the file has.
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
        let events = self.events as u64;
        // Whatever comes of it: a batch is tried once.
        self.lines.clear();
        self.events = 0;
        self.write(&frame)?;
        self.kept += events;
        Ok(())
    }

    /// Writes frames, all or none.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(frames);
        match written {
            Ok(()) => self.whole += frames.len() as u64,
            // The part that fitted is cut off: where that fails too, the reader drops it.
            Err(_) if self.regular => drop(self.file.set_len(self.whole)),
            Err(_) => {}
        }
        written
    }
}

impl Drop for Writer {
    /// Leaves no empty file where there was nothing to record.
    fn drop(&mut self) {
        if self.created && self.whole == 0 {
            // Errors change nothing: the file is empty.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes frames that have a checksum.
pub(super) fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}
