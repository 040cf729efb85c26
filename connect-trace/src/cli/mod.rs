//! The command line, as it is typed. What needs this host to be understood is checked in `config.rs`.

pub mod completions;
pub mod man;
mod mistyped;

use std::{env, ffi::OsString};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;

pub use self::man::ManArgs;
use crate::{
    check::args::CheckArgs, compare::args::CompareArgs, files::is_standard, load::args::LoadArgs,
    options::Format, replay::args::ReportArgs, trace::args::TraceArgs,
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
