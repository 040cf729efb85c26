//! A batch of rows: a frame of a recording that is being filled, and then compressed.

use std::{
    io, mem,
    time::{Duration, Instant},
};

use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{
    columns::{self, Origin},
    frames::MOST_CONTENTS,
    notes::Start,
};
use crate::connect::{Connect, ConnectionEvent};

/// Maximum number of rows in a batch.
pub const BATCH_EVENTS: usize = 8192;
/// Maximum time that a connection waits for its batch to be written.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Compression level of zstd: higher levels take longer and hardly reduce the size.
const LEVEL: i32 = 1;

/// A compressed batch.
pub(super) struct Batch {
    /// The frame.
    pub(super) frame: Vec<u8>,
    /// Number of connections in it.
    pub(super) connects: u64,
    /// Number of events of connections in it.
    pub(super) ends: u64,
}

/// The batch that is being filled.
pub(super) struct Filling {
    origin: Origin,
    compressor: Compressor<'static>,
    lines: Vec<u8>,
    connects: usize,
    ends: usize,
    /// Time of the first row.
    since: Instant,
}

impl Filling {
    /// Creates an empty batch.
    ///
    /// # Errors
    /// If zstd has no memory.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            origin: Origin::default(),
            compressor: compressor()?,
            lines: Vec::new(),
            connects: 0,
            ends: 0,
            since: Instant::now(),
        })
    }

    /// Sets the host and the clock of the rows from now on.
    pub(super) fn begin(&mut self, start: &Start) {
        self.origin = Origin::of(start);
    }

    /// Adds a connection.
    pub(super) fn connect(&mut self, connect: &Connect) {
        self.start();
        columns::write(&mut self.lines, &self.origin, connect);
        self.connects += 1;
    }

    /// Adds an event of a connection.
    pub(super) fn ended(&mut self, event: &ConnectionEvent) {
        self.start();
        columns::write_event(&mut self.lines, &self.origin, event);
        self.ends += 1;
    }

    fn start(&mut self) {
        if self.is_empty() {
            self.since = Instant::now();
        }
    }

    fn is_empty(&self) -> bool {
        self.connects + self.ends == 0
    }

    /// Returns true if it has as many rows as a batch may have, or this number of bytes.
    pub(super) fn is_full(&self, bytes: u64) -> bool {
        self.connects + self.ends == BATCH_EVENTS || self.lines.len() as u64 >= bytes
    }

    /// Returns true if its first row has waited for a second.
    pub(super) fn is_due(&self) -> bool {
        !self.is_empty() && self.since.elapsed() >= BATCH_TIME
    }

    /// Ends the batch; `None` if it is empty.
    ///
    /// # Errors
    /// If zstd has no memory.
    pub(super) fn take(&mut self) -> io::Result<Option<Batch>> {
        if self.is_empty() {
            return Ok(None);
        }
        debug_assert!(self.lines.len() <= MOST_CONTENTS);
        let frame = self.compressor.compress(&self.lines)?;
        self.lines.clear();
        Ok(Some(Batch {
            frame,
            connects: mem::take(&mut self.connects) as u64,
            ends: mem::take(&mut self.ends) as u64,
        }))
    }
}

/// Creates a compressor for frames with a checksum.
pub(super) fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}
