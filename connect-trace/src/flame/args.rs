//! The files that a flame graph is written to.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::files::is_standard;

/// The file of a flame graph for which no file is named.
pub(crate) const DEFAULT_FILE: &str = "connect-flame.svg";

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A drawing that a browser zooms and searches.
    Svg,
    /// A line for each stack, with its time in nanoseconds.
    Folded,
    /// JSON for speedscope.
    Speedscope,
}

impl Format {
    /// Returns the format that the ending of a file's name stands for; `-` is stdout, which gets folded stacks.
    fn of(path: &Path) -> Option<Self> {
        if is_standard(path) {
            return Some(Self::Folded);
        }
        let ending = path.extension()?;
        let formats = [
            ("svg", Self::Svg),
            ("folded", Self::Folded),
            ("json", Self::Speedscope),
        ];
        let found = formats.into_iter().find(|(name, _)| ending == *name);
        found.map(|(_, format)| format)
    }

    /// Returns words that say how to use the file.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Svg => "open it in a browser",
            Self::Folded => "folded stacks, in nanoseconds",
            Self::Speedscope => "open it with speedscope",
        }
    }
}

/// Parses the name of a file whose ending is the format.
///
/// # Errors
/// If the ending is none.
pub(crate) fn file_of_format(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match Format::of(&path) {
        Some(_) => Ok(path),
        None => Err(
            "the format is the ending of the name: .svg, .folded or .json (speedscope)".to_owned(),
        ),
    }
}

/// The files of `connect-trace flame`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct FlameFiles {
    /// Write a drawing to this file, to be opened in a browser. The default without any of these options is
    /// connect-flame.svg
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// Write folded stacks to this file: a line for each, with its time in nanoseconds. With -, write to stdout
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,

    /// Write a profile for speedscope to this file
    #[arg(long, value_name = "FILE")]
    pub speedscope: Option<PathBuf>,

    /// The file of `--flame`, whose ending is the format.
    #[arg(skip)]
    pub by_ending: Option<PathBuf>,
}

impl FlameFiles {
    /// Returns the file of `--flame`.
    pub(crate) fn by_ending(path: PathBuf) -> Self {
        Self {
            by_ending: Some(path),
            ..Self::default()
        }
    }

    /// Returns these files, or the default one if there is none.
    pub(crate) fn or_default(self) -> Self {
        if self.all().is_empty() {
            return Self {
                svg: Some(DEFAULT_FILE.into()),
                ..self
            };
        }
        self
    }

    /// Returns each file with its option and format.
    pub(super) fn all(&self) -> Vec<(&'static str, Format, PathBuf)> {
        let by_ending = self.by_ending.as_ref();
        let format = by_ending.and_then(|path| Format::of(path));
        let all = [
            ("--svg", Some(Format::Svg), &self.svg),
            ("--folded", Some(Format::Folded), &self.folded),
            ("--speedscope", Some(Format::Speedscope), &self.speedscope),
            ("--flame", format, &self.by_ending),
        ];
        all.into_iter()
            .filter_map(|(option, format, path)| Some((option, format?, path.clone()?)))
            .collect()
    }

    /// Returns the number of the files that are stdout.
    pub(crate) fn on_stdout(&self) -> usize {
        let files = self.all();
        let on_stdout = files.iter().filter(|(_, _, path)| is_standard(path));
        on_stdout.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_a_name_is_the_format() {
        let format = |name: &str| file_of_format(name).ok().and_then(|path| Format::of(&path));
        assert_eq!(format("a.b/c.svg"), Some(Format::Svg));
        assert_eq!(format("c.folded"), Some(Format::Folded));
        assert_eq!(format("c.json"), Some(Format::Speedscope));
        assert_eq!(format("-"), Some(Format::Folded));
        for wrong in ["svg", "c.png", "", "./-"] {
            assert_eq!(format(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_graph_without_a_file_gets_one() {
        let files = FlameFiles::default().or_default().all();
        assert_eq!(files, [("--svg", Format::Svg, DEFAULT_FILE.into())]);
        let folded = FlameFiles {
            folded: Some("-".into()),
            ..FlameFiles::default()
        };
        assert_eq!(folded.on_stdout(), 1);
        let files = folded.or_default().all();
        assert_eq!(files, [("--folded", Format::Folded, "-".into())]);
    }
}
