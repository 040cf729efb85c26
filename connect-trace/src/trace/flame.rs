//! The options of `connect-trace flame`: a trace that prints no report.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{
    args::{CheckEstablished, ProbeArgs, TraceArgs, TracedArgs},
    config::Config,
};
use crate::{
    flame::{HERTZ, args::FlameFiles},
    options::{Format, values::duration},
    probes::MAX_CONNECTIONS,
    recording::RecordArgs,
    report::OutputArgs,
    rules::RuleArgs,
    stats::by::By,
};

const EXAMPLES: &str = "\
Examples:
  connect-trace flame -d 10        10 seconds of the host, in connect-flame.svg
  connect-trace flame -- curl URL  the calls of a command and of its children
  connect-trace flame --min-latency 1ms -d 60
                                   only connect() calls of 1 ms or more
  connect-trace flame --folded - -d 10 | sort -k 2
                                   folded stacks for other tools, to stdout
  connect-trace flame --speedscope connect.json -d 10
                                   a profile for https://www.speedscope.app
  connect-trace --flame FILE.svg   a report and a flame graph of one trace

Reading it:
  A frame is a kernel function, as wide as its share of the time in connect(),
  on top of its caller. Time without a CPU lies on frames of its own: preempted,
  yielded and blocked. See docs/flame.md.";

/// Draw a flame graph of the kernel stacks of threads inside connect()
///
/// While a thread is inside connect(), its kernel stack is sampled by the clock of its CPU, and at each switch to another
/// thread. The time of each stack is drawn at the end: of the calls that the filters select, from the entry of
/// tcp_v4_connect or tcp_v6_connect to its return.
#[derive(Args, Clone, Debug)]
#[command(after_help = "See --help for examples.", after_long_help = EXAMPLES)]
pub struct FlameArgs {
    /// The connections to trace.
    #[command(flatten)]
    pub traced: TracedArgs,

    /// Stop after this time, such as 10 (seconds), 1.5m or 2h
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// The files to write.
    #[command(flatten)]
    pub files: FlameFiles,

    /// Print only errors and warnings on stderr
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Number of samples that each CPU takes per second while its thread is inside connect()
    #[arg(short = 'F', long, value_name = "HERTZ", default_value_t = HERTZ, value_parser = clap::value_parser!(u32).range(1..=20_000), help_heading = "Probes")]
    pub frequency: u32,

    /// Options of the probes.
    #[command(flatten)]
    pub probes: ProbeArgs,
}

impl FlameArgs {
    /// Returns a message if options exclude each other.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let on_stdout = self.files.on_stdout();
        if on_stdout > 1 {
            return Some("only one of the files can be stdout".to_owned());
        }
        if on_stdout > 0 && !self.traced.command.is_empty() {
            return Some(
                "the flame graph and the COMMAND would both write to stdout: name a file"
                    .to_owned(),
            );
        }
        self.traced.filters.contradiction()
    }
}

impl Config {
    /// Checks the command line of `connect-trace flame` against this host.
    ///
    /// # Errors
    /// The same as for [`Self::resolve`].
    pub fn of_flame(args: FlameArgs) -> Result<Self> {
        let files = args.files.or_default();
        let mut config = Self::resolve(TraceArgs {
            traced: args.traced,
            duration: args.duration,
            output: NO_REPORT,
            recording: RecordArgs::default(),
            rules: RuleArgs::default(),
            flame: None,
            phases: false,
            ends: false,
            ports: false,
            max_connections: MAX_CONNECTIONS,
            time_wait: false,
            quiet: args.quiet,
            verbose: 0,
            // Watching the checks makes a search several times as long while it lasts.
            check_established: CheckEstablished::Off,
            probes: args.probes,
            overhead: false,
            max_overhead: None,
        })?;
        config.probes.stacks_hertz = Some(args.frequency);
        config.flame = Some(files);
        config.reports = false;
        Ok(config)
    }
}

/// The output of a trace without reports.
const NO_REPORT: OutputArgs = OutputArgs {
    events: false,
    interval: None,
    oneline: false,
    by: By::Parity,
    top: 1,
    format: Format::Text,
    timestamp: false,
};
