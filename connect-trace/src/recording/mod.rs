//! Recordings: every connect() in a file that other tools can read too, in the format of docs/recording.md.
//!
//! A recording is a sequence of zstd frames whose contents are CSV. Skippable frames between them, which
//! other readers ignore, describe the trace.

mod args;
mod batch;
mod batches;
mod choice;
mod columns;
mod flight;
mod folder;
mod frames;
#[cfg(test)]
pub(crate) mod fuzz;
mod notes;
mod reader;
mod recorder;
#[cfg(test)]
mod tests;
mod writer;

use crate::connect::{Connect, ConnectionEvent};

pub use self::{
    args::RecordArgs,
    batch::BATCH_EVENTS,
    columns::HEADER,
    notes::{End, Kept, Start},
    reader::{Broken, Ending, Recording},
    recorder::Recorder,
    writer::Writer,
};
pub(crate) use self::{batches::each_batch, folder::named_files};

/// A row of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// A connect().
    Connect(Connect),
    /// The fate of a connection after its connect().
    Event(ConnectionEvent),
}

impl Row {
    /// Returns the connect(), if it is the row of one.
    #[must_use]
    pub fn connect(self) -> Option<Connect> {
        match self {
            Self::Connect(connect) => Some(connect),
            Self::Event(_) => None,
        }
    }
}

/// Version of the format that is written, and the newest that can be read.
pub const FORMAT: u32 = 1;
