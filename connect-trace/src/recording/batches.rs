//! Reads the batches of a recording ahead, on a thread.

use std::{io::Read, sync::mpsc, thread};

use anyhow::{Context as _, Result};

use super::{Ending, Recording, Row};

/// Passes the batches of a recording to `each` while a thread reads the next ones.
pub(crate) fn each_batch<R: Read + Send>(
    mut recording: Recording<R>,
    mut each: impl FnMut(Vec<Row>) -> Result<()>,
) -> Result<Ending> {
    /// Maximum number of batches that are ready and waiting.
    const AHEAD: usize = 4;
    let (sender, batches) = mpsc::sync_channel(AHEAD);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                let batch = recording.next_batch();
                // Sending fails if `each` has returned an error, for example because stdout cannot be written.
                if batch.is_empty() || sender.send(batch).is_err() {
                    return recording.ending().cloned();
                }
            }
        });
        // The loop owns the receiver: after an error it is dropped, and the reader ends.
        for batch in batches {
            each(batch)?;
        }
        let ending = reader.join().ok().flatten();
        ending.context("the reading of the recording ended early")
    })
}
