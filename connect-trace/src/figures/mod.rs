//! `connect-trace report --html` and `--svg`: the figures as one self-contained page, and as files for documents.

pub(crate) mod charts;
mod data;
mod dataset;
mod downsample;
pub(crate) mod html;
pub(crate) mod live;
mod occupancy;
mod point;
mod regression;
mod source;
mod table;

use std::{
    collections::HashSet, env, ffi::OsString, fs, io::Write as _, path::Path, process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use self::{
    charts::{Across, Curve, Place, axis},
    dataset::Dataset,
    downsample::{Downsampling, PARTS},
    html::Page,
};
use crate::{
    clock::Time,
    files::whole::WholeFile,
    filter::filters_of_recording,
    recording::named_files,
    replay::args::ReportArgs,
    term::{escape, message::say, printable::printable},
};

/// Maximum number of points of a page: a browser draws them at once, and they take 3 MB.
const MOST_POINTS: u64 = 200_000;

/// Maximum number of characters that a file's name takes from the name of a run.
const LONGEST_NAME: usize = 60;

/// Makes the requested page and files. A recording that is cut or damaged is shown on the page with a note,
/// and sets the exit status to 1.
///
/// # Errors
/// If nothing can be read, or an output cannot be written; no part of that output is left then.
pub fn run(args: &ReportArgs) -> Result<ExitCode> {
    let filters = filters_of_recording(&args.filters)?;
    // Report outputs that cannot be written before anything is read.
    let page_file = match &args.pictures.html {
        Some(path) => Some((path, WholeFile::replacing("--html", path)?)),
        None => None,
    };
    let mut status = ExitCode::SUCCESS;
    let (sets, curves) = match args.from_load.as_slice() {
        [] => {
            let files = named_files(&args.files);
            let most = MOST_POINTS / files.len().max(1) as u64;
            let mut sets = Vec::new();
            for file in files {
                let read = file.and_then(|path| {
                    let read = source::recording(&path, &filters, most)?;
                    Ok((path, read))
                });
                let ended = read.map(|(path, (set, ended))| {
                    sets.push(set);
                    ended.map_err(|why| format!("{}: {why}", printable(&path)))
                });
                if let Err(message) = ended.unwrap_or_else(|error| Err(format!("{error:#}"))) {
                    say!("connect-trace: {message}");
                    status = ExitCode::FAILURE;
                }
            }
            (sets, None)
        }
        paths => {
            let (sets, strategies) = source::logs(paths, MOST_POINTS)?;
            let curves = curves(&strategies, &sets);
            (sets, Some(curves))
        }
    };
    if sets.is_empty() && args.from_load.is_empty() {
        return Ok(status);
    }
    let page = Page {
        sets,
        curves,
        command: command(env::args_os()),
        made: Time::from(SystemTime::now()).date_and_time(),
    };
    let connects = axis::count(page.connects());
    if let Some((path, file)) = page_file {
        file.write(|mut file| file.write_all(page.html().as_bytes()))?;
        say!("wrote {}: {connects} connect() calls", printable(path));
    }
    if let Some(folder) = &args.pictures.svg {
        let charts = write_charts(folder, &page)?;
        say!(
            "wrote {}: {charts} charts of {connects} connect() calls",
            printable(folder)
        );
    }
    Ok(status)
}

/// Returns a curve for each strategy that has successful connections, with all of its repeats.
fn curves(strategies: &[String], sets: &[Dataset]) -> Vec<Curve> {
    let mut all: Vec<(&String, occupancy::Curve)> = Vec::new();
    for (strategy, set) in strategies.iter().zip(sets) {
        match all.iter_mut().find(|(name, _)| *name == strategy) {
            Some((_, occupancy)) => occupancy.merge(&set.occupancy),
            None => all.push((strategy, set.occupancy.clone())),
        }
    }
    let curves = all.into_iter().map(|(name, occupancy)| Curve {
        name: name.clone(),
        means: occupancy.means().collect(),
    });
    curves.filter(|curve| !curve.means.is_empty()).collect()
}

/// Writes every chart as a file into a folder, which may be new, and returns the number of charts.
fn write_charts(folder: &Path, page: &Page) -> Result<usize> {
    let option = || format!("--svg {}", printable(folder));
    let span = page.span();
    let mut charts = Vec::new();
    for (name, set) in file_names(&page.sets).iter().zip(&page.sets) {
        let scatter = |across| charts::scatter(Place::File, set, across, span);
        charts.push((format!("{name}-time.svg"), scatter(Across::Time)));
        charts.push((format!("{name}-number.svg"), scatter(Across::Number)));
        charts.push((
            format!("{name}-buckets.svg"),
            charts::buckets(Place::File, set),
        ));
        if let Some(causes) = charts::causes(Place::File, set) {
            charts.push((format!("{name}-causes.svg"), causes));
        }
    }
    if let Some(curves) = page.curves.as_ref().filter(|curves| !curves.is_empty()) {
        let occupancy = charts::occupancy(Place::File, curves);
        charts.push(("occupancy.svg".to_owned(), occupancy));
    }
    let is_new = !folder.exists();
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot be created", option()))?;
    let write = |(name, svg): &(String, String)| {
        let file = WholeFile::replacing("--svg", &folder.join(name))?;
        file.write(|mut file| file.write_all(svg.as_bytes()))
    };
    if let Err(error) = charts.iter().try_for_each(write) {
        if is_new {
            // Removes the folder only if it is empty.
            let _ = fs::remove_dir(folder);
        }
        return Err(error);
    }
    Ok(charts.len())
}

/// Returns the part of a file's name for each dataset: only characters that are harmless in a shell.
fn file_names(sets: &[Dataset]) -> Vec<String> {
    let plain = |set: &Dataset| -> String {
        let end = set.name.rsplit('/').next().unwrap_or_default();
        let end = end.trim_end_matches(".zst").trim_end_matches(".csv");
        let plain = |character: char| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => character,
            _ => '-',
        };
        let name: String = end.chars().take(LONGEST_NAME).map(plain).collect();
        name.replace("--", "-").trim_matches('-').to_owned()
    };
    let names: Vec<String> = sets.iter().map(plain).collect();
    let different: HashSet<&String> = names.iter().filter(|name| !name.is_empty()).collect();
    if different.len() == names.len() {
        return names;
    }
    let numbered = |(name, number): (&String, usize)| format!("{number}-{name}");
    names.iter().zip(1..).map(numbered).collect()
}

/// Describes the downsampling.
fn words(thinning: &Downsampling) -> String {
    let Downsampling {
        of,
        drawn,
        outliers,
        quantile,
        every_failure,
    } = thinning;
    let failures = if *every_failure {
        "every failure, "
    } else {
        "some of the failures, because there are too many, "
    };
    format!(
        "{} of {} points are drawn: {failures}for each kind at least the fastest, the slowest and all above the \
         {} % mark of each {PARTS}th of the time ({} points), and a sample of the rest. The lines, the bars and \
         the table cover all points.",
        axis::count(*drawn),
        axis::count(*of),
        axis::plain(quantile * 100.0),
        axis::count(*outliers),
    )
}

/// Returns the command line as it could be typed, for people to read.
fn command(arguments: impl Iterator<Item = OsString>) -> String {
    let quoted = |(place, argument): (usize, OsString)| {
        let argument = argument.to_string_lossy();
        if place == 0 {
            return "connect-trace".to_owned();
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            return argument.into_owned();
        }
        format!("'{}'", argument.replace('\'', r"'\''"))
    };
    let words: Vec<String> = arguments.enumerate().map(quoted).collect();
    words.join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::connect::Outcome;

    use super::{dataset::Connects, point::Point, *};

    /// A name that breaks every context that does not escape it.
    pub(super) const HOSTILE: &str =
        "</script></title><img src=x onerror=\"alert('1')\">&amp;{{data}}\u{202e}\u{1b}]]>";

    /// A successful connect() of 20 us from an even port.
    pub(super) fn point(number: u64) -> Point {
        Point {
            number,
            at_ns: 0,
            latency_ns: 20_000,
            whole_ns: 21_000,
            outcome: Outcome::Even,
            port: Some(20_000),
            errno: 0,
            source: Some([127, 0, 0, 1].into()),
            comm: None,
            share: None,
            causes_ns: None,
        }
    }

    struct Made(u64);

    impl Connects for Made {
        fn each(&mut self, take: &mut dyn FnMut(&Point)) -> Result<()> {
            for number in 0..self.0 {
                let odd = number * 2 >= self.0;
                take(&Point {
                    at_ns: number * 50_000,
                    latency_ns: if odd {
                        2_000_000 + number
                    } else {
                        20_000 + number
                    },
                    outcome: match number % 100 {
                        99 => Outcome::Failed,
                        _ if odd => Outcome::Odd,
                        _ => Outcome::Even,
                    },
                    share: Some(number as f64 / self.0 as f64),
                    ..point(number)
                });
            }
            Ok(())
        }
    }

    /// A dataset of connections: even ports first, then odd ports; every hundredth fails.
    pub(super) fn set_of(name: &str, connects: u64) -> Dataset {
        Dataset::read(name.to_owned(), &mut Made(connects), 10_000).expect("it is made up")
    }

    pub(super) fn page_of(sets: Vec<Dataset>) -> Page {
        let names: Vec<String> = sets.iter().map(|set| set.name.clone()).collect();
        Page {
            curves: Some(curves(&names, &sets)),
            sets,
            command: "connect-trace".to_owned(),
            made: "2026-01-01 00:00:00".to_owned(),
        }
    }

    /// Panics if the text is not XML: tags in pairs, attributes in quotes, no stray `<` or `&`.
    #[track_caller]
    pub(crate) fn well_formed(xml: &str) {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some((text, after)) = rest.split_once('<') {
            references(text);
            let (tag, after) = after.split_once('>').expect("a tag ends");
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "in {xml}");
                continue;
            }
            let (tag, is_empty) = match tag.strip_suffix('/') {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            while let Some((attribute, value)) = attributes.split_once("=\"") {
                let named = attribute
                    .trim()
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-');
                assert!(named, "{attribute:?} in <{tag}>");
                let (value, after) = value.split_once('"').expect("a value ends");
                references(value);
                attributes = after;
            }
            assert_eq!(attributes.trim(), "", "in <{tag}>");
            if !is_empty {
                open.push(name);
            }
        }
        references(rest);
        assert!(open.is_empty(), "{open:?} stays open");
    }

    #[track_caller]
    fn references(text: &str) {
        let is_bad = |c: char| (c.is_control() && c != '\n') || c == '>';
        assert!(!text.contains(is_bad), "{text:?}");
        for reference in text.split('&').skip(1) {
            let (name, _) = reference.split_once(';').expect("a reference ends");
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{name}");
        }
    }

    #[test]
    fn repeats_of_a_strategy_make_one_curve() {
        let sets = [set_of("a #1", 100), set_of("a #2", 200), set_of("b", 0)];
        let strategies = ["a", "a", "b"].map(str::to_owned);
        let curves = curves(&strategies, &sets);
        let names: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["a"], "b never connected");
    }

    #[test]
    fn names_of_files_are_plain_and_no_two_alike() {
        let names = |names: &[&str]| {
            let sets: Vec<Dataset> = names.iter().map(|name| set_of(name, 0)).collect();
            file_names(&sets)
        };
        let plain = names(&["select-test-repeat #2", "/tmp/a b.csv.zst", "z/y"]);
        assert_eq!(plain, ["select-test-repeat-2", "a-b", "y"]);
        let alike = names(&["x/y", "z/y", "../..", "3-y"]);
        assert_eq!(alike, ["1-y", "2-y", "3-", "4-3-y"]);
    }

    #[test]
    fn the_command_is_as_it_could_be_typed() {
        let arguments = [
            "/usr/bin/connect-trace",
            "report",
            "it's a.csv",
            "--html",
            "x.html",
        ];
        let typed = command(arguments.into_iter().map(OsString::from));
        assert_eq!(typed, r"connect-trace report 'it'\''s a.csv' --html x.html");
    }
}
