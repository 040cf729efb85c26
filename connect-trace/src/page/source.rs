//! Sets from files: each recording is one, and each run of a workload's log.

use std::{
    collections::BTreeMap,
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use super::{
    charts::axis,
    point::Point,
    set::{Connects, Set},
};
use crate::{
    clock::Time,
    event::PortRange,
    files::open,
    filter::Filters,
    load::{
        attempt::Attempt,
        log::{self, Head, Run},
    },
    recording::{Ending, Recording, Start},
    replay::each_batch,
    report::filter_words,
    term::printable::printable,
};

/// Most ranges of a recording that are named.
const MOST_RANGES: usize = 4;

/// Most runs of a log: each has a scatter, and histograms of some 100 KB.
const MOST_RUNS: usize = 1_000;

/// The set of a recording, `most` points of it. The inner error is what is wrong with the file's end.
pub(super) fn recording(
    path: &Path,
    filters: &Filters,
    most: u64,
) -> Result<(Set, Result<(), String>)> {
    let start = Recording::open(path)?.start().clone();
    if !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        bail!(
            "{}: a page reads its input twice, but this can be read only once; copy it to a file first",
            printable(path)
        );
    }
    let mut source = OfRecording {
        path,
        filters,
        began_ns: start.monotonic_ns,
        read: None,
    };
    let mut set = Set::read(printable(path).to_string(), &mut source, most)?;
    let Some((ending, ranges, last_ns)) = source.read else {
        bail!("{}: nothing was read", printable(path));
    };
    set.total_ns = Some(last_ns);
    let ended = match &ending {
        Ending::Whole(end) => {
            let side = &end.kernel_side;
            set.merge_fast(&side.fast);
            set.total_ns = Some(end.monotonic_ns.saturating_sub(start.monotonic_ns));
            if !side.accounting.complete() {
                set.notes.push(format!(
                    "INCOMPLETE: {} calls were lost, or some were not seen: see the account in the text report.",
                    axis::count(side.accounting.lost())
                ));
            }
            Ok(())
        }
        Ending::Broken(broken) => {
            set.notes
                .push(format!("INCOMPLETE: the recording is {broken}."));
            Err(broken.to_string())
        }
    };
    if set.fast > 0 {
        set.notes.push(format!(
            "{} connect() calls below --min-latency were counted but not recorded: they are part of the table \
             and the bars, but not of the points, and there are no percentiles.",
            axis::count(set.fast)
        ));
    }
    set.facts = facts(path, &start, filters, &ranges);
    Ok((set, ended))
}

struct OfRecording<'a> {
    path: &'a Path,
    filters: &'a Filters,
    began_ns: u64,
    /// Of the first reading: the end, the ranges that were searched, and when the last connect() ended.
    read: Option<(Ending, BTreeMap<PortRange, u64>, u64)>,
}

impl Connects for OfRecording<'_> {
    fn each(&mut self, take: &mut dyn FnMut(&Point)) -> Result<()> {
        let recording = Recording::open(self.path)?;
        let mut number = 0;
        let mut last_ns = 0;
        let mut ranges: BTreeMap<PortRange, u64> = BTreeMap::new();
        let ending = each_batch(recording, |batch| {
            for connect in &batch {
                if !self.filters.matches(connect) {
                    continue;
                }
                let point = Point::of_connect(number, self.began_ns, connect);
                number += 1;
                last_ns = last_ns.max(point.at_ns.saturating_add(point.latency_ns));
                if let Some(range) = connect.range
                    && (ranges.len() < 64 || ranges.contains_key(&range))
                {
                    *ranges.entry(range).or_default() += 1;
                }
                take(&point);
            }
            Ok(())
        })?;
        self.read.get_or_insert((ending, ranges, last_ns));
        Ok(())
    }
}

fn facts(
    path: &Path,
    start: &Start,
    filters: &Filters,
    ranges: &BTreeMap<PortRange, u64>,
) -> Vec<(&'static str, String)> {
    let mut by_count: Vec<_> = ranges.iter().collect();
    by_count.sort_by_key(|&(range, &count)| (std::cmp::Reverse(count), *range));
    let mut ranges: Vec<String> = by_count
        .iter()
        .take(MOST_RANGES)
        .map(|(range, _)| range.to_string())
        .collect();
    if by_count.len() > MOST_RANGES {
        ranges.push("and others".to_owned());
    }
    let recorded = Some(start.filters.clone()).filter(|words| !words.is_empty());
    let filters: Vec<String> = recorded.into_iter().chain(filter_words(filters)).collect();
    let mut facts = vec![
        ("Recording", printable(path).to_string()),
        ("Host", start.host.clone()),
        ("Kernel", format!("Linux {}", start.kernel)),
        ("Attached by", start.attached.clone()),
        (
            "Began",
            Time::from(start.wall_clock(start.monotonic_ns)).date_and_time(),
        ),
    ];
    if !ranges.is_empty() {
        facts.push(("Range", ranges.join(", ")));
    }
    if !filters.is_empty() {
        facts.push(("Only", filters.join(" ")));
    }
    facts
}

/// The log of a workload.
pub(super) struct Load {
    path: PathBuf,
    head: Head,
    attempts: Vec<Attempt>,
}

impl Load {
    /// Reads it, whole.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let name = printable(path);
        let file = open(path, "the log")?;
        let (head, attempts) = log::read(BufReader::new(file)).with_context(|| name.to_string())?;
        if head.runs.len() > MOST_RUNS {
            bail!(
                "{name}: has {} runs, but a page shows at most {MOST_RUNS}; make logs with fewer runs",
                head.runs.len()
            );
        }
        Ok(Self {
            path: path.to_owned(),
            head,
            attempts,
        })
    }

    /// A set for each run, with `most` points in all.
    pub(super) fn sets(&self, most: u64) -> Result<Vec<Set>> {
        let runs = &self.head.runs;
        let share = most / runs.len().max(1) as u64;
        let set = |(index, run): (usize, &Run)| {
            let attempts = &self.attempts;
            let mut source = OfRun {
                index,
                run,
                attempts,
            };
            let mut set = Set::read(self.name(run), &mut source, share)?;
            set.total_ns = Some(run.total_ns);
            set.facts = self.facts(run);
            Ok(set)
        };
        runs.iter().enumerate().map(set).collect()
    }

    /// What tells a run from the others.
    fn name(&self, run: &Run) -> String {
        let kin = |other: &&Run| strategy(other) == strategy(run);
        let name = strategy(run);
        match self.head.runs.iter().filter(kin).count() {
            1 => name,
            _ => format!("{name} #{}", run.repeat),
        }
    }

    /// The strategy of each set, in the same order: repeats have one.
    pub(super) fn strategies(&self) -> Vec<String> {
        self.head.runs.iter().map(strategy).collect()
    }

    fn facts(&self, run: &Run) -> Vec<(&'static str, String)> {
        let began = Duration::from_secs(self.head.began_unix_s);
        let began = SystemTime::UNIX_EPOCH.checked_add(began);
        let [low, high] = run.range;
        vec![
            ("Log", printable(&self.path).to_string()),
            ("Kernel", format!("Linux {}", self.head.kernel)),
            (
                "Began",
                began.map_or_else(String::new, |at| Time::from(at).date_and_time()),
            ),
            ("Range", format!("{low}-{high}")),
            ("Protocol", run.protocol.clone()),
            ("Addresses", run.addresses.to_string()),
            ("Threads", run.threads.to_string()),
            ("Seed", run.seed.to_string()),
        ]
    }
}

fn strategy(run: &Run) -> String {
    match run.protocol.as_str() {
        "tcp" => run.strategy.clone(),
        protocol => format!("{}, {protocol}", run.strategy),
    }
}

struct OfRun<'a> {
    index: usize,
    run: &'a Run,
    attempts: &'a [Attempt],
}

impl Connects for OfRun<'_> {
    fn each(&mut self, take: &mut dyn FnMut(&Point)) -> Result<()> {
        self.attempts
            .iter()
            .filter(|attempt| usize::from(attempt.run) == self.index)
            .for_each(|attempt| take(&Point::of_attempt(attempt, self.run.capacity)));
        Ok(())
    }
}
