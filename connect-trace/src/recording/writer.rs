//! Writes a recording in batches of connections: if the process is killed, only the last batch is lost.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{
    columns::{self, Origin},
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

/// Mode of new files: names of processes and addresses are private.
pub(super) const OWNER_ONLY: u32 = 0o600;

/// A recording that is being written.
pub struct Writer {
    path: PathBuf,
    file: File,
    regular: bool,
    /// True if the file did not exist before.
    created: bool,
    /// Number of bytes at which the file is full.
    limit: u64,
    origin: Origin,
    /// Batches that the file did not take, because it is full.
    waiting: VecDeque<Batch>,
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

/// A compressed batch.
struct Batch {
    frame: Vec<u8>,
    /// Number of connections in it, and of events of connections.
    connects: u64,
    ends: u64,
}

impl Writer {
    /// Opens a new file, an empty one, or a pipe or device. Nothing is written yet.
    ///
    /// # Errors
    /// If the file is not empty, or cannot be opened for writing.
    pub fn create(path: &Path) -> Result<Self> {
        let created = files::create("--record", path, OWNER_ONLY)?;
        let mut writer = Self::limited(path.to_owned(), created.file, u64::MAX)?;
        writer.regular = created.is_regular;
        writer.created = created.is_new;
        Ok(writer)
    }

    /// Writes to a new file. Beyond `limit`, batches wait for the [`next_file`](Self::next_file).
    pub(super) fn limited(path: PathBuf, file: File, limit: u64) -> Result<Self> {
        Ok(Self {
            path,
            file,
            regular: true,
            created: true,
            limit,
            origin: Origin::default(),
            waiting: VecDeque::new(),
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
        self.origin = Origin::of(start);
        self.write(&[frames::head(), frames::note(&start.text())].concat())
    }

    /// Adds a connection.
    ///
    /// # Errors
    /// If a batch is full and cannot be written.
    pub fn connect(&mut self, connect: &Connect) -> io::Result<()> {
        self.add(|lines, origin| columns::write(lines, origin, connect))
    }

    /// Adds an event of a connection.
    ///
    /// # Errors
    /// If a batch is full and cannot be written.
    pub fn ended(&mut self, event: &ConnectionEvent) -> io::Result<()> {
        self.ends += 1;
        self.add(|lines, origin| columns::write_event(lines, origin, event))
    }

    fn add(&mut self, line: impl FnOnce(&mut Vec<u8>, &Origin)) -> io::Result<()> {
        if self.events == 0 {
            self.since = Instant::now();
        }
        line(&mut self.lines, &self.origin);
        self.events += 1;
        // A batch is never larger than a file.
        if self.events == BATCH_EVENTS || self.lines.len() as u64 >= self.limit {
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

    /// Returns true if the file has reached its limit, so that further batches wait.
    pub(super) fn is_full(&self) -> bool {
        self.whole >= self.limit
    }

    /// Connections in the batches that wait for the next file.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.iter().map(|batch| batch.connects).sum()
    }

    /// Goes on in another file, for which batches may wait: its start must have the clock and the host of the last one
    /// if they do.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn next_file(&mut self, path: PathBuf, file: File, start: &Start) -> io::Result<()> {
        self.path = path;
        self.file = file;
        self.kept = 0;
        self.kept_ends = 0;
        self.whole = 0;
        self.begin(start)?;
        self.write_waiting()
    }

    /// Writes the last batch and the end. Batches that wait remain for another file.
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

    /// Ends the batch, and writes it unless the file is full.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.events == 0 {
            return Ok(());
        }
        debug_assert!(self.lines.len() <= MOST_CONTENTS);
        let frame = self.compressor.compress(&self.lines)?;
        let ends = self.ends as u64;
        self.waiting.push_back(Batch {
            frame,
            connects: self.events as u64 - ends,
            ends,
        });
        self.lines.clear();
        self.events = 0;
        self.ends = 0;
        self.write_waiting()
    }

    /// Writes the batches that wait, as long as the file is not full. Each is tried only once, even if it cannot be
    /// written.
    fn write_waiting(&mut self) -> io::Result<()> {
        while !self.is_full()
            && let Some(batch) = self.waiting.pop_front()
        {
            self.write(&batch.frame)?;
            self.kept += batch.connects;
            self.kept_ends += batch.ends;
        }
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
