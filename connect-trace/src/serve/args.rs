//! The options of `connect-trace serve`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args};

use super::{config::Values, mitigate::Mitigates};
use crate::{
    filter::FilterArgs,
    metrics::totals::MOST_LABEL_SETS,
    options::{
        address::Address,
        values::{duration, number_of_groups, percent},
    },
    recording::RecordArgs,
    stats::by::By,
    trace::args::ProbeArgs,
};

/// Serving.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Serve HTTP on this address, such as 127.0.0.1:19435 or unix:/run/connect-trace/http. Can be repeated. Sockets that
    /// systemd passes are used instead of the default
    #[arg(long, value_name = "ADDRESS", help_heading = "Service")]
    pub listen: Vec<Address>,

    /// Read options from this file (TOML), whose keys are the long options. What the command line says takes precedence
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    pub config: Option<PathBuf>,

    /// Split the groups of /report by this property
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        help_heading = "Service"
    )]
    pub by: By,

    /// Show this many groups of --by in /report, those with the highest total time
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = number_of_groups, help_heading = "Service")]
    pub top: usize,

    /// Length of the intervals of /report and of the page
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = duration, help_heading = "Service")]
    pub interval: Duration,

    /// Name up to NUMBER routes in the metrics, those whose ports run out first. Addresses are data: by default, none is
    /// named
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=MOST_LABEL_SETS as i64), help_heading = "Service")]
    pub metrics_routes: u8,

    /// Tell who holds the ports of the fullest routes, TIME_WAIT included, and when they run out: in /report, in
    /// /ports, on the page, and in the metrics of the routes that --metrics-routes names. Makes a record of each call, and follows connections to their end
    #[arg(long, conflicts_with_all = ["min_latency", "failed"], help_heading = "Service")]
    pub ports: bool,

    /// The connections to trace.
    #[command(flatten)]
    pub filters: FilterArgs,

    /// Options of a recording.
    #[command(flatten)]
    pub recording: RecordArgs,

    /// Options of the probes.
    #[command(flatten)]
    pub probes: ProbeArgs,

    /// Reduce tracing when overhead exceeds PERCENT of one core, such as 1% or 0.5%: sample connect() calls, then pause
    /// for a while. Each change is logged
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = "Cost")]
    pub max_overhead: Option<f64>,

    /// Print only errors and warnings on stderr
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Print more on stderr; give it twice for debug messages
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,

    /// The arguments as typed, after `serve`.
    #[arg(skip)]
    pub(crate) given: Vec<OsString>,

    /// The values of all options, also of those that `--config` gives; empty until they are read.
    #[arg(skip)]
    pub(crate) values: Values,

    /// Set by `connect-trace mitigate`.
    #[arg(skip)]
    pub(crate) mitigates: Option<Mitigates>,
}

impl ServeArgs {
    /// Returns a message if options exclude each other.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let recording = self.recording.contradiction(self.ports);
        recording.or_else(|| self.filters.contradiction())
    }
}
