//! The frames of a recording: compressed contents, and notes in skippable frames, in zstd's format (RFC 8878).

use std::io::{self, Read};

use zstd::zstd_safe;

use super::{
    batch::BATCH_EVENTS,
    columns::{HEADER, LONGEST_LINE},
};

/// First bytes of a frame with contents.
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// First bytes of a note: one of the 16 magic numbers of skippable frames.
const NOTE: [u8; 4] = 0x184d_2a5c_u32.to_le_bytes();
/// Bytes of the magic number and the length of a note.
const NOTE_HEAD: usize = 8;

/// Maximum number of bytes in a frame's contents.
pub(super) const MOST_CONTENTS: usize = BATCH_EVENTS * LONGEST_LINE;
/// Maximum number of bytes of a frame: compression never adds more than this.
pub(super) const MOST_FRAME: usize = MOST_CONTENTS + MOST_CONTENTS / 128 + 1024;
/// Maximum number of bytes of a note: that on the ports of a route has a letter for each of 65,535 ports, and its holders.
const MOST_NOTE: usize = 1 << 20;

/// Minimum number of bytes to read at once.
const PIECE: usize = 256 << 10;

/// Returns the first frame: the names of the columns, not compressed, so that every recording begins with the
/// same readable bytes.
pub(super) fn head() -> Vec<u8> {
    const RAW_AND_LAST: u32 = 1;
    /// A single segment, its length in two bytes, no checksum.
    const DESCRIPTOR: u8 = 0x60;
    /// Length for which these two bytes are 0.
    const SHORTEST: usize = 256;
    const LENGTH: usize = HEADER.len();
    const { assert!(LENGTH >= SHORTEST && LENGTH - SHORTEST <= u16::MAX as usize) };
    let length = ((LENGTH - SHORTEST) as u16).to_le_bytes();
    let block = ((LENGTH as u32) << 3 | RAW_AND_LAST).to_le_bytes();
    [
        &ZSTD[..],
        &[DESCRIPTOR],
        &length,
        &block[..3],
        HEADER.as_bytes(),
    ]
    .concat()
}

/// Returns a note as a frame.
pub(super) fn note(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("a note is made of short texts");
    [&NOTE[..], &length.to_le_bytes(), text.as_bytes()].concat()
}

/// A complete frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The bytes of a frame with contents.
    Contents(&'a [u8]),
    /// The text of a note.
    Note(&'a [u8]),
}

/// Reason why there is no further frame.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file ends within a frame.
    Cut,
    /// The bytes are not a valid frame.
    Damaged(String),
    /// The file cannot be read.
    Unreadable(io::Error),
}

/// Splits a file into its frames, in bounded memory for any input.
pub(super) struct Frames<R> {
    source: R,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were returned.
    used: usize,
    /// Offset of the buffer in the file.
    offset: u64,
    ended: bool,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            used: 0,
            offset: 0,
            ended: false,
        }
    }

    /// Offset of the next frame in the file.
    pub(super) fn offset(&self) -> u64 {
        self.offset + self.used as u64
    }

    /// Returns the next bytes without consuming them; fewer at the end of the file.
    pub(super) fn peek(&mut self, length: usize) -> Result<&[u8], Fault> {
        self.fill(length)?;
        let ahead = &self.buffer[self.used..];
        Ok(&ahead[..ahead.len().min(length)])
    }

    /// Returns true if the next frame is a note with this title.
    pub(super) fn is_note_next(&mut self, title: &str) -> Result<bool, Fault> {
        let beginning = self.peek(NOTE_HEAD + title.len())?;
        Ok(beginning.starts_with(&NOTE) && beginning.ends_with(title.as_bytes()))
    }

    /// Returns the next frame; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, Fault> {
        let head = self.peek(NOTE_HEAD)?;
        if head.is_empty() {
            return Ok(None);
        }
        match *head {
            [a, b, c, d, ..] if [a, b, c, d] == ZSTD => {
                let length = self.contents_length()?;
                Ok(Some(Frame::Contents(self.take(length))))
            }
            [a, b, c, d, ref length @ ..] if [a, b, c, d] == NOTE => {
                let Ok(length) = <[u8; 4]>::try_from(length) else {
                    return Err(Fault::Cut);
                };
                let length = u32::from_le_bytes(length) as usize;
                if length > MOST_NOTE {
                    return Err(Fault::Damaged(format!("a note of {length} bytes")));
                }
                let whole = NOTE_HEAD + length;
                if self.peek(whole)?.len() < whole {
                    return Err(Fault::Cut);
                }
                Ok(Some(Frame::Note(&self.take(whole)[NOTE_HEAD..])))
            }
            // The rest may be the beginning of either kind of frame.
            ref few if ZSTD.starts_with(few) || NOTE.starts_with(few) => Err(Fault::Cut),
            _ => Err(Fault::Damaged("no frame begins here".to_owned())),
        }
    }

    /// Returns the length of the next frame, which has contents.
    fn contents_length(&mut self) -> Result<usize, Fault> {
        let mut wanted = PIECE;
        loop {
            let ahead = self.peek(wanted)?;
            let available = ahead.len();
            let why = match zstd_safe::find_frame_compressed_size(ahead) {
                Ok(length) if length <= MOST_FRAME => return Ok(length),
                Ok(_) => "a frame that is too long",
                Err(code) => zstd_safe::get_error_name(code),
            };
            // The message of zstd for a frame that is longer than its input.
            if why != "Src size is incorrect" || available > MOST_FRAME {
                return Err(Fault::Damaged(why.to_owned()));
            }
            if available < wanted {
                return Err(Fault::Cut);
            }
            wanted *= 2;
        }
    }

    /// Consumes and returns bytes that are in the buffer.
    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.used;
        self.used += length;
        &self.buffer[from..self.used]
    }

    /// Reads until this many bytes are ahead, or the file ends.
    fn fill(&mut self, length: usize) -> Result<(), Fault> {
        if self.ended || self.buffer.len() - self.used >= length {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.offset += self.used as u64;
        self.used = 0;
        let more = length.max(PIECE) - self.buffer.len();
        let read = Read::by_ref(&mut self.source)
            .take(more as u64)
            .read_to_end(&mut self.buffer)
            .map_err(Fault::Unreadable)?;
        self.ended = read < more;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_the_header_to_every_reader_of_zstd() {
        let contents = zstd::bulk::decompress(&head(), 1024).unwrap();
        assert_eq!(contents, HEADER.as_bytes());
        assert!(head().ends_with(HEADER.as_bytes()), "readable as it is");
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let contents = zstd::bulk::compress(&[b'x'; 1_000_000], 1).unwrap();
        let file = [head(), note("a note"), contents.clone(), note("")].concat();
        let mut frames = Frames::new(&file[..]);
        assert_eq!(
            frames.next().unwrap(),
            Some(Frame::Contents(head().as_slice()))
        );
        assert_eq!(frames.next().unwrap(), Some(Frame::Note(b"a note")));
        assert_eq!(frames.next().unwrap(), Some(Frame::Contents(&contents)));
        assert_eq!(frames.next().unwrap(), Some(Frame::Note(b"")));
        assert_eq!(frames.offset(), file.len() as u64);
        assert_eq!(frames.next().unwrap(), None);
    }

    #[test]
    fn a_length_that_is_not_true_takes_no_memory() {
        let long = [&NOTE[..], &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(
            Frames::new(&long[..]).next(),
            Err(Fault::Damaged(_))
        ));
    }
}
