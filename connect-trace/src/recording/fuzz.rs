//! Fuzzes the reader of recordings and the decoder of records.

use super::{BATCH_EVENTS, Ending, Recording, Row, columns, frames, notes};
use crate::{connect::Decoder, fixtures::fuzz::fuzz};

#[test]
fn any_file_is_read_to_an_end() {
    fuzz("recording", |bytes| {
        if let Ok(recording) = Recording::new(bytes) {
            read(recording);
        }
    });
}

#[test]
fn any_text_in_whole_frames_is_read_to_an_end() {
    fuzz("recording-text", |text| {
        if let Ok(recording) = Recording::new(&*framed(text)) {
            read(recording);
        }
    });
}

#[test]
fn any_record_of_the_ring_buffer_is_read_back_from_a_recording() {
    fuzz("record", |bytes| {
        let mut decoder = Decoder::example();
        let origin = columns::Origin::of(&notes::tests::start());
        if let Some(&connect) = decoder.decode(bytes) {
            let mut line = Vec::new();
            columns::write(&mut line, &origin, &connect);
            assert!(line.len() <= columns::LONGEST_LINE);
            // A name ends at its first zero byte, wherever that is.
            let read = columns::take(&mut &*line, &origin).map(|row| row.connect().unwrap());
            let mut read = read.unwrap_or_else(|| panic!("{}", line.escape_ascii()));
            assert_eq!(read.comm.to_string(), connect.comm.to_string());
            read.comm = connect.comm;
            assert_eq!(read, connect);
        }
        if let Some(event) = decoder.decode_end(bytes) {
            let mut line = Vec::new();
            columns::write_event(&mut line, &origin, &event);
            assert!(line.len() <= columns::LONGEST_LINE);
            let read = columns::take(&mut &*line, &origin);
            assert!(
                matches!(read, Some(Row::Event(_))),
                "{}",
                line.escape_ascii()
            );
        }
    });
}

/// Reads a recording, whose rows and end must be the same when they are written and read again.
fn read(mut recording: Recording<&[u8]>) {
    let origin = columns::Origin::of(recording.start());
    let mut rows = 0;
    loop {
        let batch = recording.next_batch();
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= BATCH_EVENTS);
        for row in batch {
            rows += u64::from(row.connect().is_some());
            let mut line = Vec::new();
            match &row {
                Row::Connect(connect) => columns::write(&mut line, &origin, connect),
                Row::Event(event) => columns::write_event(&mut line, &origin, event),
            }
            assert_eq!(columns::take(&mut &*line, &origin), Some(row));
        }
    }
    match recording.ending().unwrap() {
        Ending::Whole(end) => {
            assert_eq!(end.events, rows);
            let text = end.text();
            assert_eq!(notes::End::parse(text.as_bytes()).unwrap().text(), text);
        }
        Ending::Broken(broken) => assert_eq!(broken.events, rows),
    }
}

/// Returns a recording made of texts that are separated by zero bytes: notes, whose checksums are right, and contents.
pub(crate) fn framed(text: &[u8]) -> Vec<u8> {
    let mut compressor = super::batch::compressor().unwrap();
    let mut file = frames::head();
    for piece in text.split(|&byte| byte == 0) {
        if piece.starts_with(b"connect-trace ") {
            file.extend(frames::note(&notes::tests::with_checksum(
                &String::from_utf8_lossy(piece),
            )));
        } else {
            file.extend(compressor.compress(piece).unwrap());
        }
    }
    file
}
