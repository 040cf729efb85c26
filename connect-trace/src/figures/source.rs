//! Datasets from files: one for each recording, and one for each run of a workload's log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};

use super::{
    charts::axis,
    dataset::{Connects, Dataset},
    point::Point,
};
use crate::{
    clock::Time,
    connect::SearchRange,
    files::open,
    filter::{Filters, filter_words},
    load::{
        attempt::Attempt,
        log::{self, Head, Run},
    },
    recording::{Ending, Recording, Row, Start, each_batch},
    term::printable::printable,
};

/// Maximum number of ranges of a recording that are named.
const MOST_RANGES: usize = 4;

/// Maximum number of runs in all logs: each has a scatter, and histograms of some 100 KB.
const MOST_RUNS: usize = 1_000;

/// Returns the dataset of a recording, with about `most` points. The inner error says what is wrong with the
/// file's end.
pub(super) fn recording(
    path: &Path,
    filters: &Filters,
    most: u64,
) -> Result<(Dataset, Result<(), String>)> {
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
    let mut set = Dataset::read(printable(path).to_string(), &mut source, most)?;
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
    /// Result of the first reading: the ending, the ranges that were searched, and the end of the last connect().
    read: Option<(Ending, BTreeMap<SearchRange, u64>, u64)>,
}

impl Connects for OfRecording<'_> {
    fn each(&mut self, take: &mut dyn FnMut(&Point)) -> Result<()> {
        let recording = Recording::open(self.path)?;
        let mut number = 0;
        let mut last_ns = 0;
        let mut ranges: BTreeMap<SearchRange, u64> = BTreeMap::new();
        let ending = each_batch(recording, |batch| {
            for connect in &batch {
                let Row::Connect(connect) = connect else {
                    continue;
                };
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
    ranges: &BTreeMap<SearchRange, u64>,
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

/// Returns a dataset for each run of these logs, with about `most` points in all, and the strategy of each dataset.
pub(super) fn logs(paths: &[PathBuf], most: u64) -> Result<(Vec<Dataset>, Vec<String>)> {
    let mut loads = Vec::new();
    let mut runs = 0;
    for (path, label) in paths.iter().zip(labels(paths)) {
        let load = Load::read(path, label)?;
        runs += load.head.runs.len();
        if runs > MOST_RUNS {
            bail!(
                "{}: makes {runs} runs, and a page shows {MOST_RUNS} at most; make logs of fewer",
                printable(path)
            );
        }
        loads.push(load);
    }
    let mut sets = Vec::new();
    let mut strategies = Vec::new();
    for load in &loads {
        sets.extend(load.sets(most / runs.max(1) as u64)?);
        strategies.extend(load.head.runs.iter().map(|run| load.strategy(run)));
    }
    Ok((sets, strategies))
}

/// Returns labels that distinguish the runs of several logs: the names of the files, or their paths if names
/// are the same.
fn labels(paths: &[PathBuf]) -> Vec<Option<String>> {
    if paths.len() < 2 {
        return vec![None; paths.len()];
    }
    let name = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or(path.as_os_str());
        printable(Path::new(name)).to_string()
    };
    let names: BTreeSet<String> = paths.iter().map(name).collect();
    let label = |path: &PathBuf| match names.len() == paths.len() {
        true => name(path),
        false => printable(path).to_string(),
    };
    paths.iter().map(|path| Some(label(path))).collect()
}

/// The log of a workload.
struct Load {
    path: PathBuf,
    /// Prefix of the strategies' names.
    label: Option<String>,
    head: Head,
    attempts: Vec<Attempt>,
}

impl Load {
    /// Reads the whole log.
    fn read(path: &Path, label: Option<String>) -> Result<Self> {
        let file = open(path, "the log")?;
        let (head, attempts) =
            log::read(BufReader::new(file)).with_context(|| printable(path).to_string())?;
        Ok(Self {
            path: path.to_owned(),
            label,
            head,
            attempts,
        })
    }

    /// Returns a dataset for each run, with about `share` points each.
    fn sets(&self, share: u64) -> Result<Vec<Dataset>> {
        let set = |(index, run): (usize, &Run)| {
            let attempts = &self.attempts;
            let mut source = OfRun {
                index,
                run,
                attempts,
            };
            let mut set = Dataset::read(self.name(run), &mut source, share)?;
            set.total_ns = Some(run.total_ns);
            set.facts = self.facts(run);
            Ok(set)
        };
        self.head.runs.iter().enumerate().map(set).collect()
    }

    /// Returns a name that distinguishes a run from the others.
    fn name(&self, run: &Run) -> String {
        let name = self.strategy(run);
        let kin = |other: &&Run| self.strategy(other) == name;
        match self.head.runs.iter().filter(kin).count() {
            1 => name,
            _ => format!("{name} #{}", run.repeat),
        }
    }

    /// Returns the label, the strategy, and the protocol if it is not TCP; repeats have the same name.
    fn strategy(&self, run: &Run) -> String {
        let mut name = self.label.clone().unwrap_or_default();
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(&run.strategy);
        if run.protocol != "tcp" {
            name.push_str(", ");
            name.push_str(&run.protocol);
        }
        name
    }

    fn facts(&self, run: &Run) -> Vec<(&'static str, String)> {
        let began = Duration::from_secs(self.head.began_unix_s);
        let began = SystemTime::UNIX_EPOCH.checked_add(began);
        vec![
            ("Log", printable(&self.path).to_string()),
            ("Kernel", format!("Linux {}", self.head.kernel)),
            (
                "Began",
                began.map_or_else(String::new, |at| Time::from(at).date_and_time()),
            ),
            ("Range", run.range.to_string()),
            ("Protocol", run.protocol.clone()),
            ("Addresses", run.addresses.to_string()),
            ("Threads", run.threads.to_string()),
            ("Seed", run.seed.to_string()),
        ]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(paths: &[&str]) -> Vec<Option<String>> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        labels(&paths)
    }

    #[test]
    fn several_logs_are_told_apart_by_their_files_and_one_needs_no_label() {
        assert_eq!(labels_of(&["a/6.1.csv"]), [None]);
        let names = ["5.10", "6.1"].map(|name| Some(name.to_owned()));
        assert_eq!(labels_of(&["a/5.10.csv", "b/6.1.csv"]), names);
        let paths = ["a/6.1.csv", "b/6.1.csv"];
        assert_eq!(labels_of(&paths), paths.map(|path| Some(path.to_owned())));
    }
}
