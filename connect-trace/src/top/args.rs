//! The options of `connect-trace top`.

use std::time::Duration;

use clap::Args;

use crate::{
    filter::FilterArgs,
    options::values::{duration, percent},
    trace::args::ProbeArgs,
};

const KEYS: &str = "\
Keys:
  Tab, Shift-Tab        next, previous pane
  arrows, PgUp, PgDn    select a route, or scroll
  Enter                 the selected route alone, or this pane; Esc goes back
  s or F6               sort by the next column
  / or F4               show only routes that contain a text
  w or F5               figures of ten seconds, or of a quarter of an hour
  p or space            hold the figures; the trace goes on
  + and -               a longer, a shorter interval
  h, ? or F1            all keys
  q, Ctrl-C or F10      end

Without a terminal, `connect-trace -i 1` prints a report each second.
Reading it: docs/top.md.";

/// Show live which connect() calls are slow, on a terminal
///
/// Latency by parity, routes whose ports run out, strategies, failures and losses, and the cost of the trace: the last
/// quarter of an hour, drawn again after each interval.
#[derive(Args, Clone, Debug)]
#[command(after_help = "See --help for the keys.", after_long_help = KEYS)]
pub struct TopArgs {
    /// Draw again after this time, such as 1 (second) or 500ms
    #[arg(short, long, value_name = "TIME", default_value = "2", value_parser = duration)]
    pub interval: Duration,

    /// The connections to trace.
    #[command(flatten)]
    pub filters: FilterArgs,

    /// With --pid, also trace the children that are forked from now on
    #[arg(long, requires = "pids", help_heading = "What to trace")]
    pub follow: bool,

    /// Do not tell who holds the ports of the fullest routes, and when they run out: connections are then not followed after
    /// connect(). So it is with --min-latency and --failed, without a record of each call
    #[arg(long, help_heading = "What to trace")]
    pub no_ports: bool,

    /// Options of the probes.
    #[command(flatten)]
    pub probes: ProbeArgs,

    /// Reduce tracing when overhead exceeds PERCENT of one core, such as 1% or 0.5%: sample connect() calls, then detach
    /// the probes for a while. Each change is told
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = "Cost")]
    pub max_overhead: Option<f64>,
}

impl TopArgs {
    /// Returns true if the holders of ports are told.
    pub(super) fn tells_ports(&self) -> bool {
        let has_all = self.filters.min_latency.is_none() && !self.filters.failed;
        has_all && !self.no_ports
    }
}
