//! The recording of a trace, if requested. An error does not end the trace: it is reported once, and the
//! recording ends.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use anyhow::{Result, ensure};

use super::{
    End, RecordArgs, Start, Writer, args::Limits, choice::Choice, flight::Flight, folder::Folder,
};
use crate::{
    clock::{self, Clock},
    connect::{Connect, ConnectionEvent},
    filter::{Filters, filter_words},
    kernel,
    stats::{report::KernelSide, route_ports::RoutePorts},
    term::{message::say, numbers::counted, printable::printable},
};

/// Writes the recording of a trace until an error occurs.
pub struct Recorder {
    recording: Option<Current>,
    failed: bool,
}

/// A recording.
struct Current {
    choice: Choice,
    /// The start of the trace, or of the current file.
    start: Start,
    target: Target,
}

/// The place of a recording.
enum Target {
    /// Files that are written as calls come.
    Files(Box<Files>),
    /// Memory, which is written if a condition holds.
    Flight(Box<Flight>),
}

/// A single file, or one after another in a folder.
struct Files {
    writer: Writer,
    /// Set if the files are in a folder.
    folder: Option<Folder>,
    /// Counters at the start of the current file.
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
            match &mut recording.target {
                Target::Files(files) => files.begin(&mut recording.start),
                Target::Flight(flight) => {
                    flight.begin(&recording.start);
                    Ok(())
                }
            }
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

    /// Writes a connection. `percent_in_use` returns the share of its range that its route holds, if it is known.
    pub fn connect(&mut self, connect: &Connect, percent_in_use: impl FnOnce() -> Option<f64>) {
        self.with(|recording| {
            if let Target::Flight(flight) = &mut recording.target {
                flight.saw(connect, percent_in_use);
            }
            if !recording.choice.takes(connect) {
                recording.choice.leave_out(connect);
                return Ok(());
            }
            match &mut recording.target {
                Target::Files(files) => files.writer.connect(connect),
                Target::Flight(flight) => flight.connect(connect),
            }
        });
    }

    /// Writes an event of a connection.
    pub fn ended(&mut self, event: &ConnectionEvent) {
        self.with(|recording| {
            if !recording.choice.takes(&event.connect) {
                return Ok(());
            }
            match &mut recording.target {
                Target::Files(files) => files.writer.ended(event),
                Target::Flight(flight) => flight.ended(event),
            }
        });
    }

    /// Writes a batch that is due, and begins another file in a folder if that is due. Must be called many times per
    /// second. `counted` returns the counters since the start of the trace, `ports_of` the ports of a connection's route.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn tick(
        &mut self,
        counted: impl FnOnce() -> Result<KernelSide>,
        ports_of: impl FnOnce(&Connect) -> Option<RoutePorts>,
    ) -> Result<()> {
        self.with(|recording| match &mut recording.target {
            Target::Files(files) => files.writer.flush_if_due(),
            Target::Flight(flight) => {
                flight.add_ports(ports_of);
                Ok(())
            }
        });
        if self.recording.as_ref().is_some_and(Current::is_due) {
            let counted = counted()?;
            self.with(|recording| recording.go_on(&counted));
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

    #[cfg(test)]
    pub(super) fn flight(&mut self) -> Option<&mut Flight> {
        match &mut self.recording.as_mut()?.target {
            Target::Files(_) => None,
            Target::Flight(flight) => Some(flight),
        }
    }

    fn with(&mut self, act: impl FnOnce(&mut Current) -> io::Result<()>) {
        let Some(recording) = &mut self.recording else {
            return;
        };
        let Err(error) = act(recording) else {
            return;
        };
        self.failed = true;
        match &recording.target {
            Target::Files(files) => {
                let kept = files.kept_before + files.writer.kept();
                say!(
                    "connect-trace: --record {}: {error}: the recording has stopped after {}; the report has all",
                    printable(files.writer.path()),
                    counted(kept, "connect() call", "connect() calls"),
                );
                self.recording = None;
            }
            // A file that is refused today may be accepted tomorrow.
            Target::Flight(_) => say!(
                "connect-trace: --keep: {error}: nothing was written; what is in memory stays there for the next time"
            ),
        }
    }
}

impl Current {
    fn create(args: &RecordArgs) -> Result<Option<Self>> {
        let (limits, keep) = (args.limits()?, args.kept()?);
        let Some(path) = &args.record else {
            return Ok(None);
        };
        let host = kernel::hostname();
        let target = match (limits, keep) {
            (Some(limits), Some(keep)) => {
                let folder = Folder::create(path, &host, limits)?;
                Target::Flight(Box::new(Flight::new(keep, folder)?))
            }
            (limits, _) => Target::Files(Box::new(Files::create(path, &host, limits)?)),
        };
        Ok(Some(Self {
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
            target,
        }))
    }

    /// Returns true if it is to [go on](Self::go_on).
    fn is_due(&self) -> bool {
        match &self.target {
            Target::Files(files) => files.is_due(),
            Target::Flight(flight) => flight.is_due(),
        }
    }

    /// Goes on in another file, or with another part of the time.
    fn go_on(&mut self, counted: &KernelSide) -> io::Result<()> {
        match &mut self.target {
            Target::Files(files) => files.rotate(&mut self.start, &self.choice, counted),
            Target::Flight(flight) => flight.go_on(&self.start, &self.choice, counted),
        }
    }

    fn finish(&mut self, counted: &KernelSide) -> io::Result<()> {
        match &mut self.target {
            Target::Files(files) => files.finish(&mut self.start, &self.choice, counted),
            Target::Flight(flight) => flight.finish(&self.choice, counted),
        }
    }
}

impl Files {
    fn create(path: &Path, host: &str, limits: Option<Limits>) -> Result<Self> {
        let (writer, folder) = match limits {
            None => (Writer::create(path)?, None),
            Some(limits) => {
                let mut folder = Folder::create(path, host, limits)?;
                let (path, file) = folder.next_file(folder.most_bytes())?;
                let writer = Writer::limited(path, file, folder.size())?;
                (writer, Some(folder))
            }
        };
        Ok(Self {
            writer,
            folder,
            before: KernelSide::default(),
            kept_before: 0,
        })
    }

    fn begin(&mut self, start: &mut Start) -> io::Result<()> {
        *start = self.starting_now(start);
        self.writer.begin(start)
    }

    /// Returns the start with the present time. All files of a folder have the same clock until it is set.
    fn starting_now(&self, start: &Start) -> Start {
        let clock = self.folder.as_ref().map_or_else(Clock::now, Folder::clock);
        start.at(clock::monotonic_ns(), clock)
    }

    /// Returns true if another file is to begin.
    fn is_due(&self) -> bool {
        let folder = self.folder.as_ref();
        folder.is_some_and(|folder| self.writer.is_full() || folder.is_over())
    }

    /// Goes on in another file, or in several if more came than one takes.
    fn rotate(
        &mut self,
        start: &mut Start,
        choice: &Choice,
        counted: &KernelSide,
    ) -> io::Result<()> {
        self.writer.flush()?;
        // Batches that wait have the clock of their time.
        while self.writer.is_full() {
            self.next_file(start, choice, counted)?;
        }
        if self.is_due() {
            if let Some(folder) = &mut self.folder {
                folder.follow_clock();
            }
            self.next_file(start, choice, counted)?;
        }
        Ok(())
    }

    fn finish(
        &mut self,
        start: &mut Start,
        choice: &Choice,
        counted: &KernelSide,
    ) -> io::Result<()> {
        self.writer.flush()?;
        while self.writer.waiting() > 0 {
            self.next_file(start, choice, counted)?;
        }
        self.end_file(choice, counted)
    }

    /// Ends the current file and begins another one.
    fn next_file(
        &mut self,
        start: &mut Start,
        choice: &Choice,
        counted: &KernelSide,
    ) -> io::Result<()> {
        self.end_file(choice, counted)?;
        self.kept_before += self.writer.kept();
        *start = self.starting_now(start);
        let Some(folder) = &mut self.folder else {
            return Ok(());
        };
        let (path, file) = folder.next_file(folder.most_bytes())?;
        self.writer.next_file(path, file, start)
    }

    /// Writes the end of the current file, with what was counted since its start.
    fn end_file(&mut self, choice: &Choice, counted: &KernelSide) -> io::Result<()> {
        let mut counted = choice.applied_to(counted);
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
                let connect = Connect {
                    start_ns: accounting.decoded,
                    connect_ns: random(),
                    search_ns: Some(random()),
                    cgroup_id: random(),
                    ..connect_from(20_000)
                };
                self.recorder.connect(&connect, || None);
            }
            let accounting = &mut self.counted.accounting;
            accounting.in_flight = 1;
            accounting.kernel.entered = accounting.decoded + 1;
            accounting.moved = 1;
        }

        fn tick(&mut self) {
            let counted = self.counted.clone();
            self.recorder.tick(|| Ok(counted), |_| None).unwrap();
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
