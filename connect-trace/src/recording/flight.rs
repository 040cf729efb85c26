//! A recording in memory: the last minutes of a trace, which are written to a file only when a condition holds, with
//! what came before.

use std::{collections::VecDeque, io, time::Instant};

use super::{
    End, Start, Writer,
    args::Keep,
    batch::{Batch, Filling},
    choice::Choice,
    folder::Folder,
    notes::Kept,
};
use crate::{
    clock,
    connect::{Connect, ConnectionEvent},
    stats::{report::KernelSide, route_ports::RoutePorts},
    term::{message::say, printable::printable},
};

/// Number of segments that the time of `--keep` has. The oldest one is dropped whole, because each has its own account.
const SEGMENTS: u32 = 16;

/// The last minutes of a trace.
pub(super) struct Flight {
    keep: Keep,
    folder: Folder,
    /// Maximum number of bytes in memory.
    limit: u64,
    filling: Filling,
    /// The oldest first; empty before the trace begins.
    segments: VecDeque<Segment>,
    /// The connection for which a condition held, since the last file.
    cause: Option<Kept>,
    /// The same connection, until the ports of its route were read.
    asks: Option<Connect>,
    /// Number of connections for which a condition held, since the last file.
    held: u64,
    written: Option<Instant>,
    files: u64,
}

/// A part of the time, with its account.
struct Segment {
    began: Instant,
    /// The host and the clock of its rows.
    start: Start,
    /// Counters at its start.
    before: KernelSide,
    batches: Vec<Batch>,
    bytes: u64,
}

impl Flight {
    pub(super) fn new(keep: Keep, folder: Folder) -> io::Result<Self> {
        Ok(Self {
            keep,
            limit: folder.size(),
            folder,
            filling: Filling::new()?,
            segments: VecDeque::new(),
            cause: None,
            asks: None,
            held: 0,
            written: None,
            files: 0,
        })
    }

    /// Begins the first segment.
    pub(super) fn begin(&mut self, start: &Start) {
        self.segment(start, KernelSide::default());
    }

    /// Adds a connection.
    pub(super) fn connect(&mut self, connect: &Connect) -> io::Result<()> {
        self.filling.connect(connect);
        self.put_if_full()
    }

    /// Adds an event of a connection.
    pub(super) fn ended(&mut self, event: &ConnectionEvent) -> io::Result<()> {
        self.filling.ended(event);
        self.put_if_full()
    }

    /// Sees a connection, whether or not it is recorded. `percent_in_use` returns the share of its range that its route
    /// holds, if it is known.
    pub(super) fn saw(&mut self, connect: &Connect, percent_in_use: impl FnOnce() -> Option<f64>) {
        let Some(condition) = self.keep.condition(connect, percent_in_use) else {
            return;
        };
        self.held += 1;
        if self.cause.is_none() {
            self.cause = Some(Kept::of(condition, connect));
            self.asks = Some(*connect);
        }
    }

    /// Adds the ports of the route of a connection for which a condition has just held.
    pub(super) fn add_ports(&mut self, ports_of: impl FnOnce(&Connect) -> Option<RoutePorts>) {
        if let Some(connect) = self.asks.take()
            && let Some(cause) = &mut self.cause
        {
            cause.ports = ports_of(&connect);
        }
    }

    /// Returns true if a segment is over, or a file is to be written.
    pub(super) fn is_due(&self) -> bool {
        self.is_over() || self.is_to_write()
    }

    fn is_over(&self) -> bool {
        self.segments.back().is_some_and(|segment| {
            segment.began.elapsed() >= self.keep.time / SEGMENTS
                || segment.bytes >= self.limit / u64::from(SEGMENTS)
        })
    }

    fn is_to_write(&self) -> bool {
        let is_too_soon = |written: Instant| written.elapsed() < self.keep.every;
        self.cause.is_some() && !self.written.is_some_and(is_too_soon)
    }

    /// Drops the oldest segments, writes a file if a condition has held, and begins another segment. `counted` is the
    /// account since the start of the trace.
    ///
    /// # Errors
    /// If the file cannot be written. What is in memory stays there.
    pub(super) fn go_on(
        &mut self,
        start: &Start,
        choice: &Choice,
        counted: &KernelSide,
    ) -> io::Result<()> {
        let counted = choice.applied_to(counted);
        self.put()?;
        self.drop_oldest();
        let written = if self.is_to_write() {
            self.write(&counted)
        } else {
            Ok(())
        };
        self.folder.follow_clock();
        self.segment(start, counted);
        written
    }

    /// Writes a file if a condition has held since the last one, no matter how long ago that is.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn finish(&mut self, choice: &Choice, counted: &KernelSide) -> io::Result<()> {
        self.put()?;
        self.drop_oldest();
        if self.cause.is_some() {
            self.write(&choice.applied_to(counted))?;
        }
        if self.files == 0 {
            log::info!("--keep-when: no condition has held, so there is no recording");
        }
        Ok(())
    }

    /// Begins a segment.
    fn segment(&mut self, start: &Start, before: KernelSide) {
        let monotonic_ns = clock::monotonic_ns();
        let start = start.at(monotonic_ns, self.folder.clock());
        self.filling.begin(&start);
        self.segments.push_back(Segment {
            began: Instant::now(),
            start,
            before,
            batches: Vec::new(),
            bytes: 0,
        });
    }

    fn put_if_full(&mut self) -> io::Result<()> {
        if self.filling.is_full(self.limit / u64::from(SEGMENTS)) {
            self.put()?;
        }
        Ok(())
    }

    /// Puts the batch into the latest segment.
    fn put(&mut self) -> io::Result<()> {
        if let Some(batch) = self.filling.take()?
            && let Some(segment) = self.segments.back_mut()
        {
            segment.bytes += batch.frame.len() as u64;
            segment.batches.push(batch);
        }
        Ok(())
    }

    /// Drops segments that ended before the time of `--keep`, or that have no room.
    fn drop_oldest(&mut self) {
        let mut bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        while let (Some(first), Some(second)) = (self.segments.front(), self.segments.get(1))
            && (second.began.elapsed() >= self.keep.time || bytes > self.limit)
        {
            bytes -= first.bytes;
            self.segments.pop_front();
        }
    }

    /// Writes what is in memory: a file, or one more for each time that the clock was set.
    fn write(&mut self, counted: &KernelSide) -> io::Result<()> {
        // If it cannot be written, it is tried again with the next call for which a condition holds, and not at once.
        self.written = Some(Instant::now());
        let Some(cause) = self.cause.take() else {
            return Ok(());
        };
        let cause = Kept {
            held: self.held,
            ..cause
        };
        let mut rest: &[Segment] = self.segments.make_contiguous();
        while let [first, ..] = rest {
            let same = rest
                .iter()
                .take_while(|segment| segment.start.has_clock_of(&first.start));
            let (part, after) = rest.split_at(same.count());
            rest = after;
            let next = after.first();
            let counted = next.map_or(counted, |next| &next.before);
            let bytes = part.iter().map(|segment| segment.bytes).sum();
            let (path, file) = self.folder.next_file(bytes)?;
            let mut writer = Writer::limited(path, file, u64::MAX)?;
            writer.begin(&first.start)?;
            writer.kept_because(&cause)?;
            for batch in part.iter().flat_map(|segment| &segment.batches) {
                writer.batch(batch)?;
            }
            writer.finish(|events| End {
                events,
                // The writer knows it.
                ends: 0,
                monotonic_ns: next.map_or_else(clock::monotonic_ns, |next| next.start.monotonic_ns),
                kernel_side: counted.since(&first.before),
            })?;
            self.files += 1;
            say!("{}: {cause}", printable(writer.path()));
        }
        self.held = 0;
        self.segments.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        time::Duration,
    };

    use super::*;
    use crate::{
        connect::SourcePort,
        filter::Filters,
        fixtures::connect_from,
        recording::{
            Ending, RecordArgs, Recorder, Recording, Row, folder::named_files, tests::Scratch,
        },
        rules::Condition,
    };

    /// A trace whose calls have their number as the time of their start.
    struct Trace {
        recorder: Recorder,
        counted: KernelSide,
        percent_in_use: Option<f64>,
    }

    impl Trace {
        fn start(scratch: &Scratch, keep: Duration, every: Duration, size: u64) -> Self {
            let mut name = scratch.0.clone().into_os_string();
            name.push("/");
            let condition = Condition::parse_for_call("errno == EADDRNOTAVAIL").unwrap();
            let mut recorder = Recorder::create(&RecordArgs {
                record: Some(name.into()),
                record_size: Some(size),
                keep: Some(keep),
                keep_when: vec![condition],
                keep_above: Some(80),
                keep_every: Some(every),
                ..RecordArgs::default()
            })
            .unwrap();
            recorder.begin("fentry/fexit", &Filters::default());
            Self {
                recorder,
                counted: KernelSide::default(),
                percent_in_use: None,
            }
        }

        /// Drains calls and ticks.
        fn drain(&mut self, count: u64) {
            for _ in 0..count {
                self.one(connect_from(20_000));
            }
            self.tick();
        }

        /// Drains a call for which the condition holds, and ticks.
        fn fail(&mut self) {
            self.one(Connect {
                errno: libc::EADDRNOTAVAIL,
                port: SourcePort::None,
                ..connect_from(0)
            });
            self.tick();
        }

        fn one(&mut self, connect: Connect) {
            let accounting = &mut self.counted.accounting;
            accounting.decoded += 1;
            accounting.kernel.reported = accounting.decoded;
            accounting.kernel.entered = accounting.decoded;
            let connect = Connect {
                start_ns: accounting.decoded,
                ..connect
            };
            self.recorder.connect(&connect, || self.percent_in_use);
        }

        fn flight(&mut self) -> &mut Flight {
            self.recorder.flight().expect("it is one")
        }

        fn tick(&mut self) {
            let counted = self.counted.clone();
            self.recorder.tick(|| Ok(counted), |_| None).unwrap();
        }

        fn finish(mut self) -> bool {
            self.recorder.finish(&self.counted.clone());
            self.recorder.failed()
        }
    }

    fn files(scratch: &Scratch) -> Vec<PathBuf> {
        let files = named_files(std::slice::from_ref(&scratch.0));
        files.into_iter().filter_map(Result::ok).collect()
    }

    /// Reads the numbers of the calls of a file whose account adds up, and why it was kept.
    fn read(path: &Path) -> (Vec<u64>, Kept) {
        let mut recording = Recording::open(path).unwrap();
        let mut numbers = Vec::new();
        while recording.ending().is_none() {
            let rows = recording.next_batch().into_iter();
            numbers.extend(
                rows.filter_map(Row::connect)
                    .map(|connect| connect.start_ns),
            );
        }
        let Some(Ending::Whole(end)) = recording.ending() else {
            panic!("{}: {:?}", printable(path), recording.ending());
        };
        let accounting = &end.kernel_side.accounting;
        assert!(accounting.complete(), "{accounting:?}");
        assert_eq!(accounting.decoded, numbers.len() as u64);
        (numbers, recording.kept().unwrap().clone())
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn nothing_is_written_until_a_condition_holds_and_then_all_that_came_before() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&scratch, HOUR, HOUR, 1 << 20);
        trace.drain(1_000);
        assert!(files(&scratch).is_empty());
        trace.fail();
        let [file] = &files(&scratch)[..] else {
            panic!("{:?}", files(&scratch));
        };
        let (numbers, kept) = read(file);
        assert!(numbers.into_iter().eq(1..=1_001));
        assert_eq!(
            (kept.held, kept.at_ns, kept.pid),
            (1, 1_001, connect_from(0).pid)
        );
        assert_eq!(kept.condition, "errno == EADDRNOTAVAIL");
        trace.drain(10);
        assert!(!trace.finish());
        assert_eq!(files(&scratch).len(), 1, "nothing has happened since");
    }

    #[test]
    fn files_are_as_rare_as_asked_and_the_end_writes_what_waits() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&scratch, HOUR, HOUR, 1 << 20);
        for _ in 0..3 {
            trace.drain(10);
            trace.fail();
        }
        assert_eq!(files(&scratch).len(), 1);
        assert!(!trace.finish());
        let files = files(&scratch);
        let read: Vec<_> = files.iter().map(|path| read(path)).collect();
        assert!(read[0].0.iter().copied().eq(1..=11));
        assert!(
            read[1].0.iter().copied().eq(12..=33),
            "no call is in two files"
        );
        assert_eq!((read[0].1.held, read[1].1.held), (1, 2));
    }

    #[test]
    fn what_is_older_than_the_time_is_dropped() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&scratch, HOUR, HOUR, 1 << 20);
        for count in [10, 20, 5] {
            trace.drain(count);
            // Time passes.
            for segment in &mut trace.flight().segments {
                segment.began -= HOUR / 2;
            }
            trace.drain(0);
        }
        trace.fail();
        let (numbers, _) = read(&files(&scratch)[0]);
        assert!(numbers.into_iter().eq(11..=36));
    }

    #[test]
    fn memory_is_bounded() {
        let scratch = Scratch::new();
        let size = 64 << 10;
        let mut trace = Trace::start(&scratch, HOUR, HOUR, size);
        for _ in 0..200 {
            trace.drain(1_000);
        }
        trace.fail();
        let file = &files(&scratch)[0];
        let (numbers, _) = read(file);
        assert_eq!(
            (numbers[0] % 1_000, numbers.last()),
            (1, Some(&200_001)),
            "whole segments"
        );
        let bytes = fs::metadata(file).unwrap().len();
        assert!((size / 2..2 * size).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_route_that_fills_up_is_a_condition_too() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&scratch, HOUR, HOUR, 1 << 20);
        for percent in [79.0, 80.0, 80.1] {
            trace.percent_in_use = Some(percent);
            trace.drain(1);
            let count = usize::from(percent > 80.0);
            assert_eq!(files(&scratch).len(), count, "{percent} %");
        }
        let (numbers, kept) = read(&files(&scratch)[0]);
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(kept.condition, "ports in use > 80%");
    }

    #[test]
    fn a_folder_that_refuses_loses_nothing() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&scratch, HOUR, Duration::ZERO, 1 << 20);
        trace.drain(10);
        fs::remove_dir_all(&scratch.0).unwrap();
        fs::write(&scratch.0, "").unwrap();
        trace.fail();
        fs::remove_file(&scratch.0).unwrap();
        trace.drain(10);
        trace.fail();
        let (numbers, kept) = read(&files(&scratch)[0]);
        assert!(
            numbers.into_iter().eq(1..=22),
            "what could not be written is there"
        );
        assert_eq!(kept.held, 2);
        assert!(trace.finish(), "a write has failed");
    }
}
