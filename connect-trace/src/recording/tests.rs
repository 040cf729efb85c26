//! Recordings that are complete, cut anywhere, and changed anywhere.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    BATCH_EVENTS, Broken, End, Ending, Recording, Row, Writer, columns, frames,
    notes::tests::{end, start},
};
use crate::{connect::Connect, fixtures::connect_from};

/// A file or a folder for a test, removed when it is dropped.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// Returns a path of which nothing exists yet.
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("connect-trace-{}-{number}", process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir_all(&self.0));
    }
}

/// Returns the bytes of a recording.
fn recorded(connects: &[Connect]) -> Vec<u8> {
    let scratch = Scratch::new();
    let mut writer = Writer::create(&scratch.0).unwrap();
    writer.begin(&start()).unwrap();
    for connect in connects {
        writer.connect(connect).unwrap();
    }
    writer.finish(end).unwrap();
    fs::read(&scratch.0).unwrap()
}

/// Returns the bytes of a recording with a batch for each connection.
fn recorded_in_small_batches(connects: &[Connect]) -> Vec<u8> {
    let mut bytes = [frames::head(), frames::note(&start().text())].concat();
    let mut compressor = super::batch::compressor().unwrap();
    for connect in connects {
        let mut line = Vec::new();
        columns::write(&mut line, &columns::Origin::of(&start()), connect);
        bytes.extend(compressor.compress(&line).unwrap());
    }
    bytes.extend(frames::note(&end(connects.len() as u64).text()));
    bytes
}

/// Reads a recording as much as possible.
fn read(bytes: &[u8]) -> Result<(Vec<Connect>, Result<End, Broken>), String> {
    let mut recording = Recording::new(bytes).map_err(|error| format!("{error:#}"))?;
    let mut connects = Vec::new();
    loop {
        let batch = recording.next_batch();
        if batch.is_empty() {
            break;
        }
        connects.extend(batch.into_iter().filter_map(Row::connect));
    }
    match recording.ending().expect("it has been read") {
        Ending::Whole(end) => Ok((connects, Ok(End::clone(end)))),
        Ending::Broken(broken) => {
            assert_eq!(broken.events, connects.len() as u64);
            Ok((connects, Err(broken.clone())))
        }
    }
}

fn examples(count: usize) -> Vec<Connect> {
    let ports = (20_000_u16..22_000).cycle().zip(1..);
    ports
        .take(count)
        .map(|(port, number)| Connect {
            start_ns: number * 1_234_567,
            ..connect_from(port)
        })
        .collect()
}

/// Returns the message for a file that is not a recording.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    match read(bytes) {
        Err(message) => message,
        Ok((connects, _)) => panic!("{} connects were read", connects.len()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn events_of_connections_are_read_among_the_connects(
        connects in vec(columns::tests::connect(), 1..20), events in vec(columns::tests::event(), 1..20),
    ) {
        let scratch = Scratch::new();
        let mut writer = Writer::create(&scratch.0).unwrap();
        writer.begin(&start()).unwrap();
        let mut written = Vec::new();
        for (connect, event) in connects.iter().zip(&events) {
            writer.ended(event).unwrap();
            writer.connect(connect).unwrap();
            written.extend([Row::Event(*event), Row::Connect(*connect)]);
        }
        writer.finish(end).unwrap();
        let bytes = fs::read(&scratch.0).unwrap();
        let mut recording = Recording::new(&bytes[..]).unwrap();
        prop_assert_eq!(recording.next_batch(), written.clone());
        prop_assert!(recording.next_batch().is_empty());
        let Some(Ending::Whole(ended)) = recording.ending() else {
            panic!("it is whole: {:?}", recording.ending());
        };
        let count = written.len() as u64 / 2;
        prop_assert_eq!((ended.events, ended.ends), (count, count));
    }

    #[test]
    fn what_was_written_is_read(connects in vec(columns::tests::connect(), 0..200)) {
        let (read, ended) = read(&recorded(&connects)).unwrap();
        prop_assert_eq!(&read, &connects);
        prop_assert_eq!(ended.unwrap().events, connects.len() as u64);
    }

    #[test]
    fn a_changed_byte_anywhere_gives_a_prefix_or_a_message(
        count in 0_usize..20, at: Index, change in 1_u8..,
    ) {
        let connects = examples(count);
        let mut bytes = recorded_in_small_batches(&connects);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        if let Ok((read, ended)) = read(&bytes) {
            prop_assert!(connects.starts_with(&read));
            // A bit without a meaning changes nothing.
            prop_assert!(ended.is_err() || read == connects);
        }
    }

    #[test]
    fn many_changed_bytes_are_no_panic(
        count in 0_usize..20, changes in vec((any::<Index>(), 1_u8..), 1..20),
    ) {
        let connects = examples(count);
        let mut bytes = recorded_in_small_batches(&connects);
        // Changes at the beginning are refused at once.
        let beginning = frames::head().len() + frames::note(&start().text()).len();
        for (at, change) in changes {
            let at = beginning + at.index(bytes.len() - beginning);
            bytes[at] ^= change;
        }
        let (read, _) = read(&bytes).unwrap();
        prop_assert!(read.len() <= connects.len());
    }

    #[test]
    fn any_bytes_are_refused_and_never_a_panic(bytes: Vec<u8>, with_head: bool) {
        let head = if with_head { frames::head() } else { Vec::new() };
        prop_assert!(read(&[head, bytes].concat()).is_err());
    }

    #[test]
    fn any_bytes_after_the_beginning_are_dropped(bytes in vec(any::<u8>(), 0..300)) {
        let beginning = [frames::head(), frames::note(&start().text())].concat();
        let (read, ended) = read(&[beginning.clone(), bytes].concat()).unwrap();
        prop_assert!(read.is_empty());
        prop_assert!(ended.unwrap_err().offset >= beginning.len() as u64);
    }
}

#[test]
fn a_recording_of_several_batches_is_read_whole() {
    let connects = examples(2 * BATCH_EVENTS + 1);
    let (read, ended) = read(&recorded(&connects)).unwrap();
    assert_eq!(read, connects);
    let (read, expected) = (ended.unwrap(), end(connects.len() as u64));
    assert_eq!(read.kernel_side.accounting, expected.kernel_side.accounting);
}

#[test]
fn a_frame_that_unpacks_to_more_than_a_batch_is_damage() {
    let beginning = [frames::head(), frames::note(&start().text())].concat();
    let mut line = Vec::new();
    columns::write(&mut line, &columns::Origin::of(&start()), &connect_from(1));
    for contents in [vec![b'x'; 256 << 20], line.repeat(BATCH_EVENTS + 1)] {
        let frame = super::batch::compressor().unwrap().compress(&contents);
        let (connects, end) = read(&[&*beginning, &frame.unwrap()].concat()).unwrap();
        assert!(connects.is_empty());
        let broken = end.unwrap_err();
        assert_eq!(broken.offset, beginning.len() as u64);
        assert!(broken.damage.is_some(), "{broken}");
    }
}

#[test]
fn cut_at_any_byte_it_gives_a_prefix_and_a_message() {
    let connects = examples(12);
    let bytes = recorded_in_small_batches(&connects);
    let beginning = frames::head().len() + frames::note(&start().text()).len();
    let mut most = 0;
    for length in 0..bytes.len() {
        match read(&bytes[..length]) {
            Err(message) if length == 0 => assert!(message.contains("is empty"), "{message}"),
            Err(message) => {
                assert!(length < beginning, "{length}: {message}");
                assert!(message.contains("was cut before"), "{length}: {message}");
            }
            Ok((read, ended)) => {
                assert!(length >= beginning, "{length}");
                assert!(connects.starts_with(&read), "{length}");
                assert!(read.len() >= most, "{length}: a longer file has fewer");
                most = read.len();
                let broken = ended.expect_err("it has no end");
                assert_eq!(broken.damage, None, "{length}: {broken}");
                assert!(broken.offset <= length as u64, "{length}: {broken}");
            }
        }
    }
    assert_eq!(most, connects.len());
}

#[test]
fn a_cut_drops_no_batch_that_is_whole() {
    let connects = examples(4 * BATCH_EVENTS);
    let bytes = recorded(&connects);
    let of_one = |batch: &[Connect]| recorded(batch).len();
    let largest = connects.chunks(BATCH_EVENTS).map(of_one).max().unwrap();
    let step = bytes.len() / 23;
    for length in (1_000..bytes.len()).step_by(step) {
        let (read, ended) = read(&bytes[..length]).unwrap();
        assert!(connects.starts_with(&read), "{length}");
        let broken = ended.unwrap_err();
        let batch = largest as u64;
        assert!(length as u64 - broken.offset <= batch, "{length}: {broken}");
    }
}

#[test]
fn a_changed_byte_is_noticed_by_its_batchs_checksum() {
    let connects = examples(2 * BATCH_EVENTS);
    let bytes = recorded(&connects);
    for at in (1_000..bytes.len()).step_by(bytes.len() / 23) {
        let mut changed = bytes.clone();
        changed[at] ^= 0xff;
        let (read, ended) = read(&changed).unwrap();
        assert!(connects.starts_with(&read), "byte {at}");
        assert!(ended.is_err(), "byte {at}");
    }
}

#[test]
fn what_comes_from_elsewhere_is_told_to_be_foreign() {
    let passwd = "root:x:0:0:root:/root:/bin/bash\n".repeat(20);
    let text = zstd::bulk::compress(passwd.as_bytes(), 3).unwrap();
    let other = [text.clone(), frames::note("another program's note")].concat();
    for foreign in [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\x01\0",
        passwd.as_bytes(),
        b"ARROW1\0\0\xff\xff\xff\xff\x10\x01\0\0",
        b"\xff\xff\xff\xff\x10\x01\0\0",
        b"\x1f\x8b\x08\0",
        b"x",
        &text,
        &other,
        &frames::note("a note that comes first"),
    ] {
        let message = refused(foreign);
        assert!(message.starts_with("is not a recording"), "{message}");
    }
}

#[test]
fn a_newer_format_is_told_even_if_its_columns_are_others() {
    let columns = zstd::bulk::compress(b"other,columns\n", 1).unwrap();
    let note = frames::note("connect-trace recording\nformat: 2\nversion: 9.0.0\n");
    for head in [columns, frames::head()] {
        let message = refused(&[head, note.clone()].concat());
        assert!(
            message.contains("format 2, by connect-trace 9.0.0"),
            "{message}"
        );
    }
}

#[test]
fn what_follows_the_end_is_damage() {
    let connects = examples(3);
    let bytes = recorded(&connects);
    let (read, ended) = read(&[bytes.clone(), bytes].concat()).unwrap();
    assert_eq!(read, connects);
    assert!(ended.unwrap_err().damage.is_some());
}

#[test]
fn a_missing_batch_is_noticed_at_the_end() {
    let connects = examples(2);
    let whole = recorded_in_small_batches(&connects);
    let first = recorded_in_small_batches(&connects[..1]);
    let end_of_one = frames::note(&end(1).text()).len();
    let end_of_two = frames::note(&end(2).text()).len();
    let without = [
        &first[..first.len() - end_of_one],
        &whole[whole.len() - end_of_two..],
    ];
    let (read, ended) = read(&without.concat()).unwrap();
    assert_eq!(read, connects[..1]);
    assert!(ended.unwrap_err().damage.is_some());
}

#[test]
fn a_file_that_holds_something_is_not_overwritten() {
    let scratch = Scratch::new();
    fs::write(&scratch.0, "precious").unwrap();
    let error = Writer::create(&scratch.0).err().expect("it is refused");
    assert!(error.to_string().contains("not overwritten"), "{error}");
    assert_eq!(fs::read(&scratch.0).unwrap(), b"precious");
}

#[test]
fn a_file_that_was_never_begun_is_not_left_behind() {
    let scratch = Scratch::new();
    drop(Writer::create(&scratch.0).unwrap());
    assert!(!scratch.0.exists());
    fs::write(&scratch.0, "").unwrap();
    drop(Writer::create(&scratch.0).unwrap());
    assert!(scratch.0.exists(), "it was there before");
}

#[test]
fn a_device_without_room_is_an_error() {
    let mut writer = Writer::create("/dev/full".as_ref()).unwrap();
    let error = writer.begin(&start()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_directory_and_a_file_that_is_not_there_are_named() {
    let message = |path: &str| match Recording::open(path.as_ref()) {
        Err(error) => format!("{error:#}"),
        Ok(_) => panic!("{path} was opened"),
    };
    assert!(message("/").starts_with("/: is a directory"));
    let nothing = "/nowhere/at/all";
    assert!(message(nothing).starts_with("/nowhere/at/all: there is no such file"));
}
