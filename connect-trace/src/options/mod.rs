//! Options that several commands share, and the values that options take.

pub(crate) mod address;
pub(crate) mod host;
pub(crate) mod values;

use clap::ValueEnum;

/// `--format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// text for people
    #[default]
    Text,
    /// JSON, one object per line
    Json,
}
