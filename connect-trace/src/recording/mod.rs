//! Recordings: every connect() in a file that other tools read too, as docs/recording.md defines it.
//!
//! A recording is a sequence of zstd frames, whose contents are CSV. Skippable frames between them, which
//! every other reader passes over, hold what is known of the trace.

mod columns;
mod frames;
mod keeper;
mod notes;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    columns::HEADER,
    keeper::Keeper,
    notes::{End, Start},
    reader::{Broken, Ending, Recording},
    writer::{BATCH_EVENTS, Writer},
};

/// The version of the format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;
