//! The command line, as it is typed. What needs this host to be understood is checked in `config.rs`.

mod compare;
pub mod completions;
mod filters;
mod load;
pub mod man;
mod mistyped;
mod values;

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, error::ErrorKind};
use clap_complete::Shell;

use self::values::{duration, number_of_groups, percent, ring_buffer};
pub use self::{
    compare::CompareArgs,
    filters::{FilterArgs, PortSpan},
    load::{LoadArgs, StrategyName, WorkloadArgs},
    man::ManArgs,
};
use crate::{
    aggregate::by::By,
    files::is_standard,
    probes::{AttachMode, MAX_IN_FLIGHT, checks::CheckMode},
};

/// The name of the command.
const NAME: &str = "connect-trace";

const LONG_HELP: &str = "\
Examples:
  connect-trace                    all connect() calls of the host, until Ctrl-C
  connect-trace -p 1234 -d 10      calls of process 1234, for 10 seconds
  connect-trace -- curl URL        calls of a command and of its children
  connect-trace --events --min-latency 1ms
                                   a line for each connect() of 1 ms or more
  connect-trace --dport 443 --daddr 10.0.0.0/8 --by destination
                                   which destinations take the most time
  connect-trace -i 1 --oneline     one line per second, with the time of day
  connect-trace --format json      JSON for programs; see docs/output.md
  connect-trace --record FILE      write every connect() to a file; then
  connect-trace report FILE        print the same reports from that file
  connect-trace load full-range    open connections with a strategy
  connect-trace compare            find the best strategy; takes minutes
  connect-trace check              can this host be traced, and how?

Reading the report:
  The kernel first searches source ports of one parity: that of the lowest port
  of net.ipv4.ip_local_port_range, even by default. When those are used up,
  every connect() scans all of them before it finds an odd port. If odd ports
  take ten or a hundred times as long as even ports, the range is running out.
  What helps: more source addresses; binding a random port, and trying another
  if it is taken; a randomly shifted IP_LOCAL_PORT_RANGE for each socket; from
  Linux 6.8 on, IP_LOCAL_PORT_RANGE set to the full range.

Exit status:
  0 on success, 1 on failure, 2 on wrong usage. With a COMMAND: its own exit
  status or signal, or 0 if --duration ended it.

Environment:
  RUST_LOG sets what is logged on stderr: info is -v, debug is -vv.";

/// Show why connect() is slow: its latency by the source port that the kernel chose.
///
/// Traces every TCP connect() with eBPF, from the entry of tcp_v4_connect or tcp_v6_connect to its
/// return (the SYN is sent, or the call has failed), and the search for a source port within it.
/// Prints power-of-ten buckets, percentiles and errors, split by even and odd port.
/// Needs root and a kernel with BTF (5.10 or later).
#[derive(Clone, Debug, Parser)]
#[command(
    name = NAME,
    version,
    args_conflicts_with_subcommands = true,
    after_help = "See --help for examples and how to read the report.",
    after_long_help = LONG_HELP,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do instead of tracing.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to trace.
    #[command(flatten)]
    pub trace: TraceArgs,
}

impl Cli {
    /// Reads the command line.
    ///
    /// # Errors
    /// If it is wrong, or asks for the help or the version.
    pub fn read() -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = env::args_os().collect();
        let cli = Self::try_parse_from(&arguments)
            .map_err(|error| mistyped::with_tip(error, &Self::command(), &arguments))?;
        if let Some(what) = cli.contradiction() {
            let mut command = Self::command();
            // So that subcommands know their full names.
            command.build();
            let used = cli.command.as_ref().and_then(Command::name);
            let used = used.and_then(|name| command.find_subcommand(name).cloned());
            let mut used = used.unwrap_or(command);
            return Err(used.error(ErrorKind::ArgumentConflict, what));
        }
        Ok(cli)
    }

    /// What in it excludes everything.
    fn contradiction(&self) -> Option<String> {
        if self.command.is_none()
            && self.trace.record.as_deref().is_some_and(is_standard)
            && !self.trace.command.is_empty()
        {
            return Some(
                "--record - and the COMMAND would both write to stdout: record into a file"
                    .to_owned(),
            );
        }
        let (filters, output) = match &self.command {
            None => (&self.trace.filters, &self.trace.output),
            Some(Command::Report(report)) => (&report.filters, &report.output),
            Some(Command::Load(load)) => return load.contradiction(),
            Some(Command::Compare(compare)) => return compare.contradiction(),
            Some(_) => return None,
        };
        if output.oneline && output.format == Format::Json {
            return Some(
                "--oneline prints text: --format json already prints each report on one line"
                    .to_owned(),
            );
        }
        if output.oneline && (self.trace.overhead || self.trace.max_overhead.is_some()) {
            return Some("--oneline cannot show the measurements of --overhead".to_owned());
        }
        filters.contradiction()
    }
}

/// What else there is than tracing.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print reports from recordings that were made with --record
    Report(Box<ReportArgs>),
    /// Show what this kernel supports, what a trace uses, and what is missing
    Check(CheckArgs),
    /// Open connections with a strategy for choosing source ports, and measure each one; needs no eBPF
    Load(Box<LoadArgs>),
    /// Compare strategies for choosing source ports on this kernel, and recommend one
    Compare(Box<CompareArgs>),
    /// The process that makes a run of `load`; connect-trace starts it by itself
    #[command(hide = true)]
    LoadRunner,
    /// Print the completion script for a shell
    Completions {
        /// Shell to complete in
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print a manual page, or write all of them into a folder
    Man(ManArgs),
}

impl Command {
    /// The name of one that can contradict itself.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Report(_) => Some("report"),
            Self::Load(_) => Some("load"),
            Self::Compare(_) => Some("compare"),
            _ => None,
        }
    }
}

/// Tracing.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// What to trace.
    #[command(flatten)]
    pub filters: FilterArgs,

    /// With --pid, also trace the children that are forked from now on
    #[arg(long, requires = "pids", help_heading = "What to trace")]
    pub follow: bool,

    /// Start this command, and trace it and all its children until it ends. It gets SIGTERM when --duration is over
    #[arg(
        last = true,
        value_name = "COMMAND",
        conflicts_with_all = ["pids", "follow"],
        help_heading = "What to trace"
    )]
    pub command: Vec<OsString>,

    /// Stop after this time, such as 10 (seconds), 1.5m or 2h
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// What comes out.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Write every connect() to this new file, for `connect-trace report` and other tools. With -, write to stdout, and
    /// print everything else on stderr
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub record: Option<PathBuf>,

    /// Print only errors and warnings on stderr
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Print more on stderr; give it twice for debug messages
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,

    /// How to attach the probes
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t,
        help_heading = "Probes"
    )]
    pub attach: Attach,

    /// How to watch __inet_check_established, which checks one candidate port
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        help_heading = "Probes"
    )]
    pub check_established: CheckEstablished,

    /// Size of the ring buffer between kernel and daemon: a power of two, with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = ring_buffer, help_heading = "Probes")]
    pub ring_buffer: u32,

    /// Maximum number of connect() calls in flight at once
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_IN_FLIGHT, value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = "Probes")]
    pub max_in_flight: u32,

    /// Report the cost of the trace: the run time of the eBPF programs, and the CPU time and memory of connect-trace.
    /// To measure it, the kernel reads the clock twice for each run of a program
    #[arg(long, help_heading = "Cost")]
    pub overhead: bool,

    /// Reduce tracing when overhead exceeds PERCENT of one core, such as 1% or 0.5%: stop watching port checks, then
    /// sample connect() calls, then detach the probes for a while. Each change is logged. Implies --overhead
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = "Cost")]
    pub max_overhead: Option<f64>,
}

/// What comes out, of a trace and of a recording alike.
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

/// `connect-trace report`
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Recordings, or - for stdin; several are shown side by side
    #[arg(required_unless_present = "from_load", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Draw the figures of a log of `connect-trace load --csv`, or - for stdin, instead of recordings
    #[arg(
        long,
        value_name = "LOG",
        requires = "PictureArgs",
        conflicts_with_all = ["files", "FilterArgs"],
        help_heading = "Figures"
    )]
    pub from_load: Option<PathBuf>,

    /// Figures instead of text.
    #[command(flatten)]
    pub pictures: PictureArgs,

    /// Which connects to report.
    #[command(flatten)]
    pub filters: FilterArgs,

    /// What comes out.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Figures instead of text.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Figures")]
pub struct PictureArgs {
    /// Write a self-contained HTML page with the figures to this file, or - for stdout. An existing file is replaced
    #[arg(long, value_name = "FILE", conflicts_with = "OutputArgs")]
    pub html: Option<PathBuf>,

    /// Write each figure as an SVG file into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "OutputArgs")]
    pub svg: Option<PathBuf>,
}

impl PictureArgs {
    /// Whether any are wanted.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.html.is_some() || self.svg.is_some()
    }
}

/// `connect-trace check`
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Print text for people, or JSON for programs (docs/check.md lists the fields)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// `--format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// text for people
    #[default]
    Text,
    /// JSON, one object per line
    Json,
}

/// `--attach`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// fentry/fexit if the kernel supports it and is not preemptible, otherwise kprobe/kretprobe
    #[default]
    Auto,
    /// fentry/fexit: lowest overhead; a preemptible kernel can lose calls, which are counted
    Fentry,
    /// kprobe/kretprobe: works on all supported kernels
    Kprobe,
}

impl From<Attach> for Option<AttachMode> {
    fn from(attach: Attach) -> Self {
        match attach {
            Attach::Auto => None,
            Attach::Fentry => Some(AttachMode::Fentry),
            Attach::Kprobe => Some(AttachMode::Kprobe),
        }
    }
}

/// `--check-established`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CheckEstablished {
    /// measure its latency, in short bursts
    #[default]
    Sampled,
    /// measure the latency of every call; makes a long port search four to six times as long
    Time,
    /// count the calls that each connect() makes; makes a long port search two to three times as long
    Count,
    /// do not watch it
    Off,
}

impl From<CheckEstablished> for CheckMode {
    fn from(mode: CheckEstablished) -> Self {
        match mode {
            CheckEstablished::Sampled => Self::Sampled,
            CheckEstablished::Time => Self::Time,
            CheckEstablished::Count => Self::Count,
            CheckEstablished::Off => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_excludes_everything_is_said() {
        let contradiction = |arguments: &str| {
            let arguments = format!("connect-trace {arguments}");
            let cli = Cli::try_parse_from(arguments.split(' ')).unwrap();
            cli.contradiction()
        };
        for wrong in [
            "-4 --daddr ::1",
            "-6 --daddr 10.0.0.0/8 --daddr 127.0.0.1",
            "--oneline --format json",
            "report --oneline --format json FILE",
            "--oneline --overhead",
        ] {
            assert!(contradiction(wrong).is_some(), "{wrong}");
        }
        for right in [
            "-4 --daddr 10.0.0.0/8 --daddr ::1",
            "-4 --daddr ::/0",
            "-6 --daddr fd00::/8",
            "--min-latency 1ms --by pid",
            "--oneline --format text -i 1",
            "report --min-latency 1ms --by pid FILE",
        ] {
            assert_eq!(contradiction(right), None, "{right}");
        }
    }

    #[test]
    fn a_ring_buffer_that_is_not_asked_for_is_that_of_every_trace() {
        let cli = Cli::parse_from(["connect-trace"]);
        assert_eq!(cli.trace.ring_buffer, crate::probes::RING_BUFFER_BYTES);
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
