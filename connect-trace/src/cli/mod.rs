//! The command line as typed. Values that depend on this host are resolved in `trace/config.rs`.

pub mod completions;
pub mod man;
mod mistyped;

use std::{env, ffi::OsString, net::IpAddr, os::fd::RawFd};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

pub use self::man::ManArgs;
#[cfg(feature = "top")]
use crate::top::args::TopArgs;
use crate::{
    check::args::CheckArgs,
    compare::args::CompareArgs,
    explain::args::ExplainArgs,
    files::is_standard,
    load::args::LoadArgs,
    options::Format,
    ports::args::PortsArgs,
    replay::args::ReportArgs,
    serve::{args::ServeArgs, mitigate::MitigateArgs},
    stats::by::By,
    supervise::args::TryArgs,
    trace::{args::TraceArgs, flame::FlameArgs},
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
  connect-trace top                watch them on the terminal
  connect-trace --dport 443 --daddr 10.0.0.0/8 --by destination
                                   which destinations take the most time
  connect-trace --expect strategy!=bind -- curl URL
                                   fail if the command binds before connect()
  connect-trace -i 1 --oneline     one line per second, with the time of day
  connect-trace --format json      JSON for programs; see docs/output.md
  connect-trace --record FILE      write every connect() to a file; then
  connect-trace report FILE        print the same reports from that file
  connect-trace load full-range    open connections with a strategy
  connect-trace compare            find the best strategy; takes minutes
  connect-trace try full-range -- curl URL
                                   use a strategy for a program, unchanged
  connect-trace flame -d 10        a flame graph: where connect() takes its time
  connect-trace check              can this host be traced, and how?
  connect-trace mitigate --cgroup PATH select-test-repeat
                                   choose ports for programs that cannot
  connect-trace explain 10.0.0.7:5432
                                   how a port for that destination is found
  connect-trace ports              which ports are in use, and who holds them

Reading the report:
  The kernel first searches source ports of one parity: that of the lowest port
  of net.ipv4.ip_local_port_range, even by default. When those are used up,
  every connect() scans all of them before it finds an odd port. If odd ports
  take ten or a hundred times as long as even ports, the range is running out.
  What helps: more source addresses; binding a random port, and trying another
  if it is taken; a randomly shifted IP_LOCAL_PORT_RANGE for each socket; from
  Linux 6.8 on, IP_LOCAL_PORT_RANGE set to the full range.

Exit status:
  0 on success, 1 on failure, 2 on wrong usage, 3 if a rule of --expect is
  broken or cannot be proven. With a COMMAND that fails: its own exit status or
  signal, unless --duration ended it.

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
    /// Subcommand; a trace without one.
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
        let mut cli = Self::try_parse_from(&arguments)
            .map_err(|error| mistyped::with_tip(error, &Self::command(), &arguments))?;
        if let Some(Command::Serve(serve)) = &mut cli.command {
            // Before a subcommand there are no options.
            serve.given = arguments.iter().skip(2).cloned().collect();
        }
        if let Some(what) = cli.contradiction() {
            let mut command = Self::command();
            // Gives subcommands their full names.
            command.build();
            let used = cli.command.as_ref().and_then(Command::name);
            let used = used.and_then(|name| command.find_subcommand(name).cloned());
            let mut used = used.unwrap_or(command);
            return Err(used.error(ErrorKind::ArgumentConflict, what));
        }
        Ok(cli)
    }

    /// Returns a message if options exclude each other.
    fn contradiction(&self) -> Option<String> {
        if let (None, Some(flame)) = (&self.command, &self.trace.flame)
            && is_standard(flame)
        {
            if self.trace.recording.uses_stdout() {
                return Some("--record - and --flame - would both write to stdout".to_owned());
            }
            if !self.trace.traced.command.is_empty() {
                return Some(
                    "--flame - and the COMMAND would both write to stdout: name a file".to_owned(),
                );
            }
        }
        if self.command.is_none()
            && self.trace.recording.uses_stdout()
            && !self.trace.traced.command.is_empty()
        {
            return Some(
                "--record - and the COMMAND would both write to stdout: record into a file"
                    .to_owned(),
            );
        }
        let (filters, output) = match &self.command {
            None => (&self.trace.traced.filters, &self.trace.output),
            Some(Command::Report(report)) => (&report.filters, &report.output),
            Some(Command::Flame(flame)) => return flame.contradiction(),
            Some(Command::Serve(serve)) => return serve.contradiction(),
            #[cfg(feature = "top")]
            Some(Command::Top(top)) => return top.filters.contradiction(),
            Some(Command::Mitigate(mitigate)) => return mitigate.contradiction(),
            Some(Command::Load(load)) => return load.contradiction(),
            Some(Command::Compare(compare)) => return compare.contradiction(),
            Some(Command::Try(args)) => return args.contradiction(),
            Some(_) => return None,
        };
        if self.command.is_some() && output.by == By::Pod {
            return Some(
                "--by pod: a recording has the numbers of cgroups and not their names; use --by cgroup"
                    .to_owned(),
            );
        }
        if output.oneline && output.format == Format::Json {
            return Some(
                "--oneline prints text: --format json already prints each report on one line"
                    .to_owned(),
            );
        }
        if output.oneline && (self.trace.overhead || self.trace.max_overhead.is_some()) {
            return Some("--oneline cannot show the measurements of --overhead".to_owned());
        }
        let recording = self.trace.recording.contradiction(self.trace.ports);
        recording.or_else(|| filters.contradiction())
    }
}

/// Subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print reports from recordings that were made with --record
    Report(Box<ReportArgs>),
    /// Trace without an end, for a fleet's monitoring: metrics, reports and a page over HTTP
    Serve(Box<ServeArgs>),
    /// Show live which connect() calls are slow, on a terminal
    #[cfg(feature = "top")]
    Top(Box<TopArgs>),
    /// Choose source ports or addresses for the programs of a cgroup, without touching them
    Mitigate(Box<MitigateArgs>),
    /// Draw a flame graph of the kernel stacks of threads inside connect()
    Flame(Box<FlameArgs>),
    /// Show what this kernel supports, what a trace uses, and what is missing
    Check(CheckArgs),
    /// Show how the kernel searches a source port for one destination on this host now; needs no eBPF
    Explain(ExplainArgs),
    /// Show which ports of the fullest routes are in use on this host now, and who holds them; needs no eBPF
    Ports(Box<PortsArgs>),
    /// Open connections with a strategy for choosing source ports, and measure each one; needs no eBPF
    Load(Box<LoadArgs>),
    /// Compare strategies for choosing source ports on this kernel, and recommend one
    Compare(Box<CompareArgs>),
    /// Run a command whose connect() calls use a strategy for source ports, unchanged; needs no root and no eBPF
    Try(Box<TryArgs>),
    /// The process that goes on if the supervisor of `try` ends; connect-trace starts it by itself
    #[command(hide = true)]
    TryStandby {
        /// Work to go on with, as JSON
        work: String,
    },
    /// The process that measures the price of `try`; connect-trace starts it by itself
    #[command(hide = true)]
    TryPrice {
        /// Address to connect to
        to: IpAddr,
        /// Descriptor to write the times to
        results: RawFd,
    },
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
    /// The name of a subcommand whose options can exclude each other.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Report(_) => Some("report"),
            Self::Flame(_) => Some("flame"),
            Self::Serve(_) => Some("serve"),
            #[cfg(feature = "top")]
            Self::Top(_) => Some("top"),
            Self::Mitigate(_) => Some("mitigate"),
            Self::Load(_) => Some("load"),
            Self::Compare(_) => Some("compare"),
            Self::Try(_) => Some("try"),
            _ => None,
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
            "report --by pod FILE",
        ] {
            assert!(contradiction(wrong).is_some(), "{wrong}");
        }
        for right in [
            "-4 --daddr 10.0.0.0/8 --daddr ::1",
            "-4 --daddr ::/0",
            "-6 --daddr fd00::/8",
            "--min-latency 1ms --by pid",
            "--by pod",
            "serve --by pod",
            "--oneline --format text -i 1",
            "report --min-latency 1ms --by pid FILE",
        ] {
            assert_eq!(contradiction(right), None, "{right}");
        }
    }

    #[test]
    fn a_ring_buffer_that_is_not_asked_for_is_that_of_every_trace() {
        let cli = Cli::parse_from(["connect-trace"]);
        assert_eq!(
            cli.trace.probes.ring_buffer,
            crate::probes::RING_BUFFER_BYTES
        );
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
