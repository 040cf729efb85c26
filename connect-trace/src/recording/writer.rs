//! Writes a recording in batches of connections: if the process is killed, only the last batch is lost.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{
    batch::{Batch, Filling},
    frames,
    notes::{End, Kept, Start},
};
use crate::{
    connect::{Connect, ConnectionEvent},
    files,
};

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
    filling: Filling,
    /// Batches that the file did not take, because it is full.
    waiting: VecDeque<Batch>,
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
        let created = files::create("--record", path, OWNER_ONLY)?;
        let mut writer = Self::limited(path.to_owned(), created.file, u64::MAX)?;
        writer.regular = created.is_regular;
        writer.created = created.is_new;
        Ok(writer)
    }

    /// Writes to a new file. Beyond `limit`, batches wait for the [`next_file`](Self::next_file).
    pub(super) fn limited(path: PathBuf, file: File, limit: u64) -> io::Result<Self> {
        Ok(Self {
            path,
            file,
            regular: true,
            created: true,
            limit,
            filling: Filling::new()?,
            waiting: VecDeque::new(),
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
        self.filling.begin(start);
        self.write(&[frames::head(), frames::note(&start.text())].concat())
    }

    /// Writes why this recording was kept.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn kept_because(&mut self, kept: &Kept) -> io::Result<()> {
        self.write(&frames::note(&kept.text()))
    }

    /// Writes a batch of another recording with the same host and clock.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        self.write(&batch.frame)?;
        self.kept += batch.connects;
        self.kept_ends += batch.ends;
        Ok(())
    }

    /// Adds a connection.
    ///
    /// # Errors
    /// If a batch is full and cannot be written.
    pub fn connect(&mut self, connect: &Connect) -> io::Result<()> {
        self.filling.connect(connect);
        self.flush_if_full()
    }

    /// Adds an event of a connection.
    ///
    /// # Errors
    /// If a batch is full and cannot be written.
    pub fn ended(&mut self, event: &ConnectionEvent) -> io::Result<()> {
        self.filling.ended(event);
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> io::Result<()> {
        // A batch is never larger than a file.
        if self.filling.is_full(self.limit) {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the batch if its first connection has waited for a second.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush_if_due(&mut self) -> io::Result<()> {
        if self.filling.is_due() {
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
        let Some(batch) = self.filling.take()? else {
            return Ok(());
        };
        self.waiting.push_back(batch);
        self.write_waiting()
    }

    /// Writes the batches that wait, as long as the file is not full. Each is tried only once, even if it cannot be
    /// written.
    fn write_waiting(&mut self) -> io::Result<()> {
        while !self.is_full()
            && let Some(batch) = self.waiting.pop_front()
        {
            self.batch(&batch)?;
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
