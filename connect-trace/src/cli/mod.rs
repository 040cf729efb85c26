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
  connect-trace                    every connect() of the host, until Ctrl-C
  connect-trace -p 1234 -d 10      those of process 1234, for 10 seconds
  connect-trace -- curl URL        those of a command and of its children
  connect-trace --events --min-latency 1ms
                                   a line for each connect() of 1 ms or more
  connect-trace --dport 443 --daddr 10.0.0.0/8 --by destination
                                   where the time goes, by destination
  connect-trace -i 1 --oneline     a line a second, with the time of day
  connect-trace --format json      for programs; docs/output.md has the fields
  connect-trace --record FILE      keep every connect(); then
  connect-trace report FILE        the same reports from what was kept
  connect-trace load full-range    open connections by a strategy; measure each
  connect-trace compare            which strategy is best here? a few minutes
  connect-trace check              can this host be traced, and how?

Reading the report:
  The kernel searches source ports of one parity first, that of the lowest
  port of net.ipv4.ip_local_port_range: even by default. Once those are taken,
  every connect() scans them all before it finds an odd one. If the times of
  odd ports lie a power of ten or two above those of even ports, the range is
  running out. What helps: more source addresses; a random port, bound and
  tried again; a randomly shifted IP_LOCAL_PORT_RANGE for each socket; from
  Linux 6.8 on, that option set to the full range.

Exit status:
  0 success, 1 failure, 2 wrong usage; with a COMMAND, the command's own, or
  its signal, but 0 if --duration ended it. RUST_LOG=info, or -v, tells more
  on stderr.";

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
                "--oneline is text for people: --format json has all of a report on one line already"
                    .to_owned(),
            );
        }
        if output.oneline && (self.trace.overhead || self.trace.max_overhead.is_some()) {
            return Some("--oneline has no room for what --overhead measures".to_owned());
        }
        filters.contradiction()
    }
}

/// What else there is than tracing.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print the reports of recordings that --record made
    Report(Box<ReportArgs>),
    /// Say what this kernel offers, what will be used, and what is missing
    Check(CheckArgs),
    /// Open connections by a strategy of choosing source ports, and measure each; needs no BPF
    Load(Box<LoadArgs>),
    /// Compare strategies of choosing source ports on this kernel, and recommend one
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

    /// Trace the children of each --pid too, those forked from now on
    #[arg(long, requires = "pids", help_heading = "What to trace")]
    pub follow: bool,

    /// Start this command, and trace it and all its children until it ends; when the time of --duration is over, it
    /// gets SIGTERM
    #[arg(
        last = true,
        value_name = "COMMAND",
        conflicts_with_all = ["pids", "follow"],
        help_heading = "What to trace"
    )]
    pub command: Vec<OsString>,

    /// End after this time, such as 10 (seconds), 1.5m or 2h
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// What comes out.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Keep every connect() in this new file, for `connect-trace report` and other tools. With - it is stdout, and
    /// what else is printed goes to stderr
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub record: Option<PathBuf>,

    /// Print nothing on stderr but errors and warnings
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Tell more on stderr; twice for everything
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,

    /// How to attach
    #[arg(
        long,
        value_name = "HOW",
        value_enum,
        default_value_t,
        help_heading = "Probes"
    )]
    pub attach: Attach,

    /// What to pay for watching __inet_check_established, which looks at one candidate port
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        help_heading = "Probes"
    )]
    pub check_established: CheckEstablished,

    /// Size of the ring buffer between kernel and daemon (K, M or G; a power of two)
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = ring_buffer, help_heading = "Probes")]
    pub ring_buffer: u32,

    /// Most connect() calls that can be in flight at once
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_IN_FLIGHT, value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = "Probes")]
    pub max_in_flight: u32,

    /// Report what the trace costs: the programs by the kernel's own statistics, which themselves cost two
    /// readings of the clock for each run, and connect-trace's CPU time and memory
    #[arg(long, help_heading = "Cost")]
    pub overhead: bool,

    /// Trace less where that costs more, in percent of one core such as 1% or 0.5%: give up port checks, then
    /// sample connects, then detach for a while; each step is told. Implies --overhead
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

    /// Print a report every so often, such as 1 (second), 500ms or 5m, each starting anew
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,

    /// Print each report as one line, as vmstat does: connects a second, failures, median and 99th
    /// percentile by parity, the share of odd ports, losses
    #[arg(long, conflicts_with_all = ["events", "by", "top"])]
    pub oneline: bool,

    /// What the buckets and percentiles are split by
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub by: By,

    /// How many groups of --by are shown, those with the most time in all; the rest is one line
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = number_of_groups)]
    pub top: usize,

    /// Text for people, or JSON Lines for programs: docs/output.md has the fields
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,

    /// Print the time of day with each report
    #[arg(short = 'T', long)]
    pub timestamp: bool,
}

/// `connect-trace report`
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Recordings, - for stdin; several are shown side by side
    #[arg(required_unless_present = "from_load", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Draw the log of a workload, of `connect-trace load --csv` or - for stdin, instead of recordings
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
    /// Write a page with the figures, which needs no network, - for stdout; one that is there is replaced
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
    /// Text for people, or JSON for programs: docs/check.md has the fields
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// `--format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// for people
    #[default]
    Text,
    /// JSON, an object a line
    Json,
}

/// `--attach`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// fentry/fexit where the kernel offers it and is not preemptible, else kprobe/kretprobe
    #[default]
    Auto,
    /// fentry/fexit: cheapest; on a preemptible kernel calls can be lost, and are counted
    Fentry,
    /// kprobe/kretprobe: works everywhere
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
    /// its latency, in short bursts
    #[default]
    Sampled,
    /// the latency of every call; makes a long port search four to six times as long
    Time,
    /// how many calls each connect() makes; makes a long search two to three times as long
    Count,
    /// nothing
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
