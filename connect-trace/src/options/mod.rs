//! Options that several commands share, and the values that options take.

pub mod values;

use clap::ValueEnum;

/// `--format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// for people
    #[default]
    Text,
    /// JSON, an object a line
    Json,
}
