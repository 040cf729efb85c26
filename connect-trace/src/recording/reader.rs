//! Reads a recording; if it was cut or is damaged, the connections before that point are still returned.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use zstd::bulk::Decompressor;

use super::{
    FORMAT, Row,
    batch::BATCH_EVENTS,
    columns::{self, Origin},
    frames::{self, Fault, Frame, Frames, MOST_CONTENTS},
    notes::{self, End, Kept, NoteError, Start},
};
use crate::{files::open, term::printable::printable};

/// A recording that is being read.
pub struct Recording<R = File> {
    start: Start,
    kept: Option<Kept>,
    origin: Origin,
    frames: Frames<R>,
    decompressor: Decompressor<'static>,
    lines: Vec<u8>,
    events: u64,
    ends: u64,
    ending: Option<Ending>,
}

/// The end of a recording.
#[derive(Clone, Debug)]
pub enum Ending {
    /// The recording is complete.
    Whole(Box<End>),
    /// The recording is cut or damaged; everything after the connections that were read is dropped.
    Broken(Broken),
}

/// Description of a recording that is cut or damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Connections that were read.
    pub events: u64,
    /// Offset in the file of the first byte that is dropped.
    pub offset: u64,
    /// Description of the damage; `None` if the file just ends.
    pub damage: Option<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            events,
            offset,
            damage,
        } = self;
        let s = if *events == 1 { "" } else { "s" };
        match damage {
            None => write!(
                formatter,
                "cut at byte {offset}: the trace was killed or is still running, or the disk was full; {events} \
                 connect() call{s} read"
            ),
            Some(damage) => write!(
                formatter,
                "damaged at byte {offset} ({damage}); {events} connect() call{s} before it read, \
                 the rest dropped"
            ),
        }
    }
}

impl Recording {
    /// Opens a recording.
    ///
    /// # Errors
    /// If the file cannot be read, is empty, is not a recording, has a newer format, or ends before its first
    /// connection.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open(path, "the recordings")?;
        Self::new(file).with_context(|| printable(path).to_string())
    }
}

impl<R: Read> Recording<R> {
    /// Reads a recording from its bytes.
    ///
    /// # Errors
    /// See [`Recording::open`].
    pub fn new(source: R) -> Result<Self> {
        let mut frames = Frames::new(source);
        let start = start(&mut frames)?;
        let kept = kept(&mut frames)?;
        Ok(Self {
            origin: Origin::of(&start),
            start,
            kept,
            frames,
            decompressor: Decompressor::new().context("set zstd up")?,
            lines: Vec::with_capacity(MOST_CONTENTS),
            events: 0,
            ends: 0,
            ending: None,
        })
    }

    /// Returns the note at the start.
    #[must_use]
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Returns the reason why it was kept, if it was in memory until a condition held.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Returns the next rows, at most a batch; empty at the end.
    pub fn next_batch(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        while rows.is_empty() && self.ending.is_none() {
            let offset = self.frames.offset();
            let ended = match self.frames.next() {
                Ok(Some(Frame::Contents(frame))) => {
                    self.lines.clear();
                    let taken = self
                        .decompressor
                        .decompress_to_buffer(frame, &mut self.lines)
                        .map_err(|error| error.to_string())
                        .and_then(|_| {
                            parse(&self.lines, &self.origin)
                                .ok_or_else(|| "a line of other columns".to_owned())
                        });
                    match taken {
                        Ok(taken) => {
                            rows = taken;
                            continue;
                        }
                        Err(damage) => Err(Some(damage)),
                    }
                }
                Ok(Some(Frame::Note(note))) => match End::parse(note) {
                    Ok(end) => Ok(end),
                    // Later versions of this format may add notes anywhere.
                    Err(NoteError::Foreign) => continue,
                    Err(_) => Err(Some("the note of the end".to_owned())),
                },
                Ok(None) | Err(Fault::Cut) => Err(None),
                Err(Fault::Damaged(damage)) => Err(Some(damage)),
                Err(Fault::Unreadable(error)) => Err(Some(error.to_string())),
            };
            let ended = ended.and_then(|end| self.check_end(end));
            self.ending = Some(match ended {
                Ok(end) => Ending::Whole(Box::new(end)),
                Err(damage) => Ending::Broken(Broken {
                    events: self.events,
                    offset,
                    damage,
                }),
            });
        }
        let connects = rows.iter().filter(|row| matches!(row, Row::Connect(_)));
        let connects = connects.count() as u64;
        self.events += connects;
        self.ends += rows.len() as u64 - connects;
        rows
    }

    /// Checks that nothing follows the end, and that no connection is missing.
    fn check_end(&mut self, end: End) -> Result<End, Option<String>> {
        if end.events != self.events {
            let missing = format!("the end says {} connect() calls", end.events);
            return Err(Some(missing));
        }
        if end.ends != self.ends {
            let missing = format!("the end says {} events of connections", end.ends);
            return Err(Some(missing));
        }
        match self.frames.peek(1) {
            Ok([]) => Ok(end),
            _ => Err(Some("something follows the end".to_owned())),
        }
    }

    /// Returns the ending, once [`next_batch`](Self::next_batch) has reached it.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }
}

/// Reads everything before the first connection.
fn start(frames: &mut Frames<impl Read>) -> Result<Start> {
    const FOREIGN: &str = "is not a recording of connect-trace --record";
    const CUT: &str = "was cut before its first connect(); there is nothing in it to report";
    let fault = |fault| match fault {
        Fault::Unreadable(error) => unreadable(error),
        Fault::Cut => anyhow!(CUT),
        Fault::Damaged(_) => anyhow!(FOREIGN),
    };
    let head = frames::head();
    let beginning = frames.peek(head.len()).map_err(fault)?;
    if beginning.is_empty() {
        bail!("is empty: nothing was recorded, or there was no room on the disk");
    }
    if beginning.len() < head.len() && head.starts_with(beginning) {
        bail!(CUT);
    }
    let is_head = beginning == head;
    // A newer format may have other columns: only its note identifies it.
    match frames.next() {
        Ok(Some(Frame::Contents(_))) => {}
        Ok(_) | Err(Fault::Cut | Fault::Damaged(_)) => bail!(FOREIGN),
        Err(Fault::Unreadable(error)) => return Err(unreadable(error)),
    }
    let note = match frames.next() {
        Ok(Some(Frame::Note(note))) => note,
        Ok(None) | Err(Fault::Cut) if is_head => bail!(CUT),
        Err(Fault::Damaged(_)) | Ok(Some(_)) if is_head => {
            bail!("is damaged: the note at its beginning is not there")
        }
        Err(Fault::Unreadable(error)) => return Err(unreadable(error)),
        _ => bail!(FOREIGN),
    };
    match Start::parse(note) {
        Ok(start) if is_head => Ok(start),
        Err(NoteError::Newer(format, version)) => bail!(
            "is a recording of format {format}, by connect-trace {version}; this is {}, which reads formats up \
             to {FORMAT}: use that version, or a later one",
            env!("CARGO_PKG_VERSION")
        ),
        Err(NoteError::Foreign) => bail!(FOREIGN),
        Ok(_) | Err(NoteError::Damaged) => bail!("is damaged: its beginning has changed"),
    }
}

/// Reads the note that may follow the start: why the recording was kept.
fn kept(frames: &mut Frames<impl Read>) -> Result<Option<Kept>> {
    let Ok(true) = frames.is_note_next(notes::KEPT) else {
        // A fault is found again by the first batch.
        return Ok(None);
    };
    match frames.next() {
        Ok(Some(Frame::Note(note))) => match Kept::parse(note) {
            Ok(kept) => Ok(Some(kept)),
            Err(_) => bail!("is damaged: the note on why it was kept has changed"),
        },
        Err(Fault::Unreadable(error)) => Err(unreadable(error)),
        _ => bail!("was cut before its first connect(); there is nothing in it to report"),
    }
}

fn unreadable(error: io::Error) -> anyhow::Error {
    anyhow!("cannot be read: {error}")
}

/// Returns the rows of a batch; `None` if it is empty, has more rows than any batch (a row takes several times the memory
/// of a short line), or a line is invalid.
fn parse(mut lines: &[u8], origin: &Origin) -> Option<Vec<Row>> {
    let mut rows = Vec::with_capacity(BATCH_EVENTS);
    while !lines.is_empty() {
        if rows.len() == BATCH_EVENTS {
            return None;
        }
        rows.push(columns::take(&mut lines, origin)?);
    }
    (!rows.is_empty()).then_some(rows)
}
