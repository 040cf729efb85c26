//! The options of `connect-trace report`.

use std::path::PathBuf;

use clap::Args;

use crate::{filter::FilterArgs, report::OutputArgs, rules::RuleArgs};

/// `connect-trace report`
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Recordings, folders with recordings in them, or - for stdin; several are shown side by side
    #[arg(required_unless_present = "from_load", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Draw the figures of logs of `connect-trace load --csv`, or - for stdin, instead of recordings. With several logs,
    /// each strategy has the name of its file before it
    #[arg(
        long,
        value_name = "LOG",
        num_args = 1..,
        requires = "PictureArgs",
        conflicts_with_all = ["files", "FilterArgs"],
        help_heading = "Figures"
    )]
    pub from_load: Vec<PathBuf>,

    /// Figures instead of text.
    #[command(flatten)]
    pub pictures: PictureArgs,

    /// Filters of the connections to report.
    #[command(flatten)]
    pub filters: FilterArgs,

    /// Options of the output.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Rules.
    #[command(flatten)]
    pub rules: RuleArgs,
}

/// Figures instead of text.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Figures")]
pub struct PictureArgs {
    /// Write a self-contained HTML page with the figures to this file, or - for stdout. An existing file is replaced
    #[arg(long, value_name = "FILE", conflicts_with_all = ["OutputArgs", "RuleArgs"])]
    pub html: Option<PathBuf>,

    /// Write each figure as an SVG file into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["OutputArgs", "RuleArgs"])]
    pub svg: Option<PathBuf>,
}

impl PictureArgs {
    /// Returns true if any figures are requested.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.html.is_some() || self.svg.is_some()
    }
}
