//! The batches of a recording, read ahead by a thread.

use std::{sync::mpsc, thread};

use anyhow::{Context as _, Result};

use super::{Ending, Recording};
use crate::connect::Connect;

/// Hands over the batches of a recording while a thread reads the next ones.
pub(crate) fn each_batch(
    mut recording: Recording,
    mut each: impl FnMut(Vec<Connect>) -> Result<()>,
) -> Result<Ending> {
    /// Batches that are ready and wait.
    const AHEAD: usize = 4;
    let (sender, batches) = mpsc::sync_channel(AHEAD);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                let batch = recording.next_batch();
                // Nobody takes it any more where stdout refused.
                if batch.is_empty() || sender.send(batch).is_err() {
                    return recording.ending().cloned();
                }
            }
        });
        // Owned by this loop: with an error it goes, and the reader ends.
        for batch in batches {
            each(batch)?;
        }
        let ending = reader.join().ok().flatten();
        ending.context("the reading of the recording ended early")
    })
}
