//! The recording of a trace, if requested. An error does not end the trace: it is reported once, and the
//! recording ends.

use std::io::{self, IsTerminal as _};

use anyhow::{Result, ensure};

use super::{End, RecordArgs, Start, Writer, choice::Choice, folder::Folder};
use crate::{
    clock::{self, Clock},
    connect::{Connect, ConnectionEvent},
    filter::{Filters, filter_words},
    kernel,
    stats::report::KernelSide,
    term::{message::say, printable::printable},
};

/// Writes the recording of a trace until an error occurs.
pub struct Recorder {
    recording: Option<Current>,
    failed: bool,
}

/// A recording: a single file, or one after another in a folder.
struct Current {
    writer: Writer,
    /// Set if the files are in a folder.
    folder: Option<Folder>,
    choice: Choice,
    /// The start of the current file.
    start: Start,
    /// Counters at that start.
    before: KernelSide,
    /// Connections in the files before.
    kept_before: u64,
}

impl Recorder {
    /// Opens the file, if a recording is requested.
    ///
    /// # Errors
    /// See [`Writer::create`]; also if stdout is named and is a terminal, or if the options do not fit together.
    pub fn create(args: &RecordArgs) -> Result<Self> {
        ensure!(
            !args.uses_stdout() || !io::stdout().is_terminal(),
            "--record -: a recording is not written to a terminal; redirect stdout, or name a file"
        );
        Ok(Self {
            recording: Current::create(args)?,
            failed: false,
        })
    }

    /// Writes the start of the trace, with the mode of attaching and the filters.
    pub fn begin(&mut self, attached: &str, filters: &Filters) {
        self.set_filters(filters);
        self.with(|recording| {
            attached.clone_into(&mut recording.start.attached);
            recording.start_now();
            recording.writer.begin(&recording.start)
        });
    }

    /// Sets the filters of the files that are begun later.
    pub(crate) fn set_filters(&mut self, filters: &Filters) {
        if let Some(recording) = &mut self.recording {
            let mut words = filter_words(filters);
            words.extend(recording.choice.words());
            recording.start.filters = words.join(" ");
        }
    }

    /// Writes a connection.
    pub fn connect(&mut self, connect: &Connect) {
        self.with(|recording| {
            if recording.choice.takes(connect) {
                recording.writer.connect(connect)
            } else {
                recording.choice.leave_out(connect);
                Ok(())
            }
        });
    }

    /// Writes an event of a connection.
    pub fn ended(&mut self, event: &ConnectionEvent) {
        self.with(|recording| {
            if recording.choice.takes(&event.connect) {
                recording.writer.ended(event)
            } else {
                Ok(())
            }
        });
    }

    /// Writes a batch that is due, and begins another file in a folder if that is due. Must be called many times per
    /// second. `counted` returns the counters since the start of the trace.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn tick(&mut self, counted: impl FnOnce() -> Result<KernelSide>) -> Result<()> {
        self.with(|recording| recording.writer.flush_if_due());
        if self.recording.as_ref().is_some_and(Current::is_due) {
            let counted = counted()?;
            self.with(|recording| recording.rotate(&counted));
        }
        Ok(())
    }

    /// Writes the end of the trace, with the counters of the whole trace.
    pub fn finish(&mut self, counted: &KernelSide) {
        self.with(|recording| recording.finish(counted));
        self.recording = None;
    }

    /// Returns true if connections are missing in the file because of an error.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    fn with(&mut self, act: impl FnOnce(&mut Current) -> io::Result<()>) {
        let Some(recording) = &mut self.recording else {
            return;
        };
        if let Err(error) = act(recording) {
            let kept = recording.kept_before + recording.writer.kept();
            say!(
                "connect-trace: --record {}: {error}: the recording has stopped after {kept} connect() call{}; the \
                 report has all",
                printable(recording.writer.path()),
                if kept == 1 { "" } else { "s" },
            );
            self.recording = None;
            self.failed = true;
        }
    }
}

impl Current {
    fn create(args: &RecordArgs) -> Result<Option<Self>> {
        let limits = args.limits()?;
        let Some(path) = &args.record else {
            return Ok(None);
        };
        let host = kernel::hostname();
        let (writer, folder) = match limits {
            None => (Writer::create(path)?, None),
            Some(limits) => {
                let mut folder = Folder::create(path, &host, limits)?;
                let (path, file) = folder.next_file()?;
                let writer = Writer::limited(path, file, folder.size())?;
                (writer, Some(folder))
            }
        };
        Ok(Some(Self {
            writer,
            folder,
            choice: Choice::new(args),
            start: Start {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                host,
                kernel: kernel::release(),
                attached: String::new(),
                filters: String::new(),
                wall_ns: 0,
                monotonic_ns: 0,
            },
            before: KernelSide::default(),
            kept_before: 0,
        }))
    }

    /// Sets the time of the start. All files of a folder have the same clock until it is set.
    fn start_now(&mut self) {
        let clock = self.folder.as_ref().map_or_else(Clock::now, Folder::clock);
        let monotonic_ns = clock::monotonic_ns();
        let wall_ns = i128::from(monotonic_ns) + i128::from(clock.offset_ns());
        self.start.monotonic_ns = monotonic_ns;
        self.start.wall_ns = u64::try_from(wall_ns).unwrap_or(0);
    }

    /// Returns true if another file is to begin.
    fn is_due(&self) -> bool {
        let folder = self.folder.as_ref();
        folder.is_some_and(|folder| self.writer.is_full() || folder.is_over())
    }

    /// Goes on in another file, or in several if more came than one takes.
    fn rotate(&mut self, counted: &KernelSide) -> io::Result<()> {
        self.writer.flush()?;
        // Batches that wait have the clock of their time.
        while self.writer.is_full() {
            self.next_file(counted)?;
        }
        if self.is_due() {
            if let Some(folder) = &mut self.folder {
                folder.follow_clock();
            }
            self.next_file(counted)?;
        }
        Ok(())
    }

    fn finish(&mut self, counted: &KernelSide) -> io::Result<()> {
        self.writer.flush()?;
        while self.writer.waiting() > 0 {
            self.next_file(counted)?;
        }
        self.end_file(counted)
    }

    /// Ends the current file and begins another one.
    fn next_file(&mut self, counted: &KernelSide) -> io::Result<()> {
        self.end_file(counted)?;
        self.kept_before += self.writer.kept();
        self.start_now();
        let Some(folder) = &mut self.folder else {
            return Ok(());
        };
        let (path, file) = folder.next_file()?;
        self.writer.next_file(path, file, &self.start)
    }

    /// Writes the end of the current file, with what was counted since its start.
    fn end_file(&mut self, counted: &KernelSide) -> io::Result<()> {
        let mut counted = self.choice.applied_to(counted);
        // Calls that wait for the next file were not read yet, as far as this file knows.
        counted.accounting.decoded -= self.writer.waiting();
        let part = counted.since(&self.before);
        self.before = counted;
        self.writer.finish(|events| End {
            events,
            // The writer knows it.
            ends: 0,
            monotonic_ns: clock::monotonic_ns(),
            kernel_side: part,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        time::Duration,
    };

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        fixtures::connect_from,
        recording::{Ending, Recording, Row, folder::named_files, tests::Scratch},
    };

    const SIZE: u64 = 64 << 10;
    const KEEP: u64 = 512 << 10;

    fn folder(scratch: &Scratch) -> RecordArgs {
        let mut name = scratch.0.clone().into_os_string();
        name.push("/");
        RecordArgs {
            record: Some(name.into()),
            record_size: Some(SIZE),
            record_keep: Some(KEEP),
            ..RecordArgs::default()
        }
    }

    /// A trace of calls with values that hardly compress.
    struct Trace {
        recorder: Recorder,
        random: fastrand::Rng,
        counted: KernelSide,
    }

    impl Trace {
        fn start(args: &RecordArgs) -> Self {
            let mut recorder = Recorder::create(args).unwrap();
            recorder.begin("fentry/fexit", &Filters::default());
            Self {
                recorder,
                random: fastrand::Rng::with_seed(7),
                counted: KernelSide::default(),
            }
        }

        /// Drains calls. One more stays in flight.
        fn drain(&mut self, count: u64) {
            for _ in 0..count {
                let accounting = &mut self.counted.accounting;
                accounting.decoded += 1;
                accounting.kernel.reported = accounting.decoded;
                let mut random = || self.random.u64(1..1 << 40);
                self.recorder.connect(&Connect {
                    start_ns: accounting.decoded,
                    connect_ns: random(),
                    search_ns: Some(random()),
                    cgroup_id: random(),
                    ..connect_from(20_000)
                });
            }
            let accounting = &mut self.counted.accounting;
            accounting.in_flight = 1;
            accounting.kernel.entered = accounting.decoded + 1;
            accounting.moved = 1;
        }

        fn tick(&mut self) {
            let counted = self.counted.clone();
            self.recorder.tick(|| Ok(counted)).unwrap();
        }

        fn finish(&mut self) {
            let counted = self.counted.clone();
            self.recorder.finish(&counted);
            assert!(!self.recorder.failed());
        }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let files = named_files(&[folder.to_owned()]).into_iter();
        files.map(Result::unwrap).collect()
    }

    fn bytes(folder: &Path) -> u64 {
        let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
        files(folder).iter().map(size).sum()
    }

    /// Reads a whole recording: its calls by number, and its end.
    fn read(path: &Path) -> (Vec<u64>, Start, End) {
        let mut recording = Recording::open(path).unwrap();
        let start = recording.start().clone();
        let mut numbers = Vec::new();
        while recording.ending().is_none() {
            let connects = recording.next_batch().into_iter().filter_map(Row::connect);
            numbers.extend(connects.map(|connect| connect.start_ns));
        }
        match recording.ending() {
            Some(Ending::Whole(end)) => (numbers, start, End::clone(end)),
            other => panic!("{}: {other:?}", printable(path)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn whatever_comes_a_folder_keeps_its_bound_and_the_newest_calls(drains in vec(0_u64..9_000, 1..9)) {
            let scratch = Scratch::new();
            let mut trace = Trace::start(&folder(&scratch));
            for count in drains {
                trace.drain(count);
                prop_assert!(bytes(&scratch.0) <= KEEP);
                trace.tick();
                prop_assert!(bytes(&scratch.0) <= KEEP);
            }
            trace.finish();
            prop_assert!(bytes(&scratch.0) <= KEEP);
            let parts: Vec<_> = files(&scratch.0).iter().map(|path| read(path)).collect();
            let numbers: Vec<u64> = parts.iter().flat_map(|(numbers, ..)| numbers.clone()).collect();
            let all = trace.counted.accounting.decoded;
            let first = numbers.first().copied().unwrap_or(all + 1);
            prop_assert!(numbers.iter().copied().eq(first..=all), "no call is missing between the parts");
            for (numbers, start, end) in &parts {
                let accounting = end.kernel_side.accounting;
                prop_assert!(accounting.complete(), "{:?}", accounting);
                prop_assert_eq!(accounting.decoded, numbers.len() as u64);
                prop_assert_eq!(start.wall_ns - start.monotonic_ns, parts[0].1.wall_ns - parts[0].1.monotonic_ns);
            }
            // Nothing is removed while there is room for three quarters.
            prop_assert!(first == 1 || bytes(&scratch.0) > KEEP / 2, "{} bytes", bytes(&scratch.0));
        }
    }

    #[test]
    fn time_begins_another_file_with_an_account_of_its_own() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&RecordArgs {
            record_time: Some(Duration::ZERO),
            ..folder(&scratch)
        });
        for count in [3, 0, 2] {
            trace.drain(count);
            trace.tick();
        }
        trace.finish();
        let parts: Vec<_> = files(&scratch.0).iter().map(|path| read(path)).collect();
        let counts: Vec<usize> = parts.iter().map(|(numbers, ..)| numbers.len()).collect();
        assert_eq!(counts, [3, 0, 2, 0]);
        let entered =
            |(_, _, end): &(Vec<u64>, Start, End)| end.kernel_side.accounting.kernel.entered;
        // The call that is in flight all the time is part of each account.
        assert_eq!(parts.iter().map(entered).collect::<Vec<_>>(), [4, 1, 3, 1]);
        for pair in parts.windows(2) {
            assert!(pair[0].2.monotonic_ns <= pair[1].1.monotonic_ns);
        }
    }

    #[test]
    fn calls_that_are_left_out_are_in_the_account_of_their_file() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&RecordArgs {
            record_min_latency: Some(Duration::from_nanos(1 << 39)),
            record_time: Some(Duration::ZERO),
            ..folder(&scratch)
        });
        for _ in 0..2 {
            trace.drain(100);
            trace.tick();
        }
        trace.finish();
        let parts: Vec<_> = files(&scratch.0).iter().map(|path| read(path)).collect();
        for (numbers, start, end) in &parts[..2] {
            assert_eq!(
                start.filters,
                format!("--record-min-latency {}ns", 1_u64 << 39)
            );
            let side = &end.kernel_side;
            assert!(side.accounting.complete(), "{:?}", side.accounting);
            let below = side.accounting.left_out();
            assert_eq!(
                (numbers.len() as u64 + below, side.fast.count()),
                (100, below)
            );
            assert!((20..80).contains(&below), "{below}");
        }
    }

    #[test]
    fn a_file_that_was_removed_meanwhile_does_not_matter_and_a_folder_does() {
        let scratch = Scratch::new();
        let mut trace = Trace::start(&RecordArgs {
            record_time: Some(Duration::ZERO),
            ..folder(&scratch)
        });
        trace.drain(3);
        trace.tick();
        fs::remove_dir_all(&scratch.0).unwrap();
        trace.tick();
        assert!(!trace.recorder.failed(), "it is created again");
        fs::remove_dir_all(&scratch.0).unwrap();
        fs::write(&scratch.0, "").unwrap();
        trace.tick();
        assert!(trace.recorder.failed());
        trace.drain(3);
        trace.tick();
    }
}
