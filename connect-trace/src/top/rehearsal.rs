//! `top` on connections that were made up, without probes: for tests under a terminal, and for work on the screen.

use std::{future, time::Duration};

use anyhow::Result;

use super::{check_terminal, runtime, show, source::Source};
use crate::{
    connect::Connect,
    live::{history::History, stage::Stage},
};

/// Shows these connections until a key or a signal ends it. Each interval has those of the next element; the first `before`
/// intervals have ended at the start. After the last element there are no more connections. `length` is what each interval
/// counts as, whatever time goes by between two drawings.
///
/// # Errors
/// If stdin and stdout are no terminal.
pub fn rehearse(
    drawn_every: Duration,
    length: Duration,
    before: usize,
    intervals: impl IntoIterator<Item = Vec<Connect>>,
) -> Result<()> {
    check_terminal()?;
    let mut stage = Stage::new(length);
    // The last of the intervals before ends now.
    stage.at -= length * u32::try_from(before)?;
    let mut intervals = intervals.into_iter();
    for connects in intervals.by_ref().take(before) {
        stage.add(&connects);
    }
    let mut rehearsal = Rehearsal { stage, intervals };
    runtime()?.block_on(show(&mut rehearsal, drawn_every))
}

/// Intervals that end one after the other.
struct Rehearsal<Intervals> {
    stage: Stage,
    intervals: Intervals,
}

impl<Intervals: Iterator<Item = Vec<Connect>>> Source for Rehearsal<Intervals> {
    async fn next(&mut self) -> Result<()> {
        future::pending().await
    }

    fn end_interval(&mut self, _: Duration) -> Result<()> {
        let connects = self.intervals.next().unwrap_or_default();
        self.stage.add(&connects);
        Ok(())
    }

    fn history(&self) -> &History {
        &self.stage.history
    }
}
