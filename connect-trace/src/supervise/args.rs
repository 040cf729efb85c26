//! The command line of `connect-trace try`.

use std::{ffi::OsString, net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::strategy::Strategy;
use crate::options::{Format, values::duration};

/// `connect-trace try`
#[derive(Args, Clone, Debug)]
pub struct TryArgs {
    /// How source ports are chosen for the command: full-range, window-retry-PORTS (window-retry alone has 32 ports), addresses; with
    /// --against, two or more of them, and default
    #[arg(value_name = "STRATEGY", required = true)]
    pub strategies: Vec<Strategy>,

    /// Source addresses of the strategy addresses, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub addresses: Vec<IpAddr>,

    /// Run the command with one strategy after the other, and print a table of them at the end
    #[arg(long)]
    pub against: bool,

    /// Number of runs with each strategy
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "against", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,

    /// Wait between two runs, so that ports in TIME_WAIT come free (which takes a minute)
    #[arg(long, value_name = "TIME", requires = "against", value_parser = duration)]
    pub pause: Option<Duration>,

    /// Do not trace the runs: the supervisor makes and times the connect() calls of all strategies, which needs no root
    #[arg(long, requires = "against")]
    pub no_trace: bool,

    /// Print text for people, or JSON for programs (docs/try.md lists the fields)
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub format: Format,

    /// Write the report to this file instead of stderr; with -, to stdout, which the command uses too
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Print only errors and warnings on stderr
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Command to run, with its arguments. Its children are supervised too
    #[arg(last = true, value_name = "COMMAND", required = true)]
    pub command: Vec<OsString>,
}

impl TryArgs {
    /// Returns a message if the options contradict each other.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let uses_addresses = self.strategies.contains(&Strategy::Addresses);
        let message = match self.strategies.as_slice() {
            [_, _, ..] if !self.against => {
                "several strategies are run one after the other with --against"
            }
            [Strategy::Default] if !self.against => {
                "default changes nothing: name a strategy, or compare it with another one by --against"
            }
            [_] if self.against => {
                "--against compares two strategies or more, such as: default full-range"
            }
            _ if uses_addresses && self.addresses.is_empty() => {
                "the strategy addresses needs --addresses LIST, such as --addresses 10.0.0.7,10.0.0.8"
            }
            _ if !uses_addresses && !self.addresses.is_empty() => {
                "--addresses applies to the strategy addresses only, which is not selected"
            }
            _ => return None,
        };
        Some(message.to_owned())
    }
}
