//! Recordings: every connect() in a file that other tools read too, as docs/recording.md defines it.
//!
//! A recording is a sequence of zstd frames, whose contents are CSV. Skippable frames between them, which
//! every other reader passes over, hold what is known of the trace.

mod batches;
mod columns;
mod frames;
mod notes;
mod reader;
mod recorder;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use self::batches::each_batch;
pub use self::{
    columns::HEADER,
    notes::{End, Start},
    reader::{Broken, Ending, Recording},
    recorder::Recorder,
    writer::{BATCH_EVENTS, Writer},
};

/// The version of the format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;
