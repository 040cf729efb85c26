//! Options of the output.

use std::time::Duration;

use clap::Args;

use crate::{
    options::{
        Format,
        values::{duration, number_of_groups},
    },
    stats::by::By,
};

/// Options of the output of a trace or of a recording.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print a line for each connect() as it happens
    #[arg(short, long)]
    pub events: bool,

    /// Print a report at this interval, such as 1 (second), 500ms or 5m. Each report covers one interval
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,

    /// Print each report as one line, like vmstat: connect() calls per second, failures, median and 99th percentile by
    /// parity, share of odd ports, losses
    #[arg(long, conflicts_with_all = ["events", "by", "top"])]
    pub oneline: bool,

    /// Split buckets and percentiles by this property
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub by: By,

    /// Show this many groups of --by, those with the highest total time. The others are summed up in one line
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = number_of_groups)]
    pub top: usize,

    /// Print text for people, or JSON Lines for programs (docs/output.md lists the fields)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,

    /// Print the time of day with each report
    #[arg(short = 'T', long)]
    pub timestamp: bool,
}
