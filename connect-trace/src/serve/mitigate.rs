//! The options of `connect-trace mitigate`: a service whose probes see one cgroup, and that acts on its connections.

use std::{net::IpAddr, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use connect_trace_common::mitigation::{MOST_SOURCES, WHOLE};

use super::args::ServeArgs;
use crate::{
    filter::FilterArgs,
    mitigate::settings::Settings,
    options::{
        Format,
        address::Address,
        values::{duration, whole_percent},
    },
    probes::mitigation::{Method, ShareBy},
    recording::RecordArgs,
    stats::by::By,
    trace::args::ProbeArgs,
};

const EXAMPLES: &str = "\
Examples:
  connect-trace mitigate --cgroup /system.slice/nginx.service select-test-repeat
                                   on routes with half of their ports in use
  connect-trace mitigate --cgroup PATH --share 50% select-test-repeat
                                   half of the threads, and a verdict
  connect-trace mitigate --cgroup PATH addresses --addresses 10.0.0.5,10.0.0.6
                                   source addresses in turn
  connect-trace mitigate --cgroup PATH --listen 127.0.0.1:19436 -i 60 STRATEGY
                                   with metrics, for a service manager

It ends with Ctrl-C, SIGTERM or kill -9, and leaves nothing behind: connections
keep their ports, and later ones are as before. See docs/mitigate.md.";

/// Choose source ports or addresses for the programs of a cgroup, without touching them
///
/// eBPF programs at connect() choose the source of TCP connections on the routes whose ports run out, and leave all others
/// to the kernel. Each report counts every decision. Needs root, and changes what it sees: try it on one cgroup first.
#[derive(Args, Clone, Debug)]
#[command(after_help = "See --help for examples.", after_long_help = EXAMPLES)]
pub struct MitigateArgs {
    /// How to choose the source
    #[arg(value_name = "STRATEGY", value_enum)]
    pub strategy: StrategyName,

    /// Act on the processes in this cgroup (version 2) and below it, given as a path in the hierarchy or as an id. Can be
    /// repeated
    #[arg(long = "cgroup", value_name = "PATH", required = true)]
    pub cgroups: Vec<String>,

    /// With the strategy addresses: source addresses of this host, separated by commas
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        required_if_eq("strategy", "addresses")
    )]
    pub addresses: Vec<IpAddr>,

    /// Act on a route once a search for a port has found this share of the range in use; 0% for all routes
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = whole_percent)]
    pub when_above: u32,

    /// Act on this share of the threads, and compare them with the others
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = share)]
    pub share: u32,

    /// The property by which --share is divided
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub share_by: ShareByName,

    /// Stop after this time, such as 10 (seconds), 1.5m or 2h
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Print a report at this interval
    #[arg(
        short,
        long,
        value_name = "TIME",
        default_value = "10",
        value_parser = duration,
        help_heading = "Output"
    )]
    pub interval: Duration,

    /// Print text for people, or JSON Lines for programs (docs/output.md lists the fields)
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        help_heading = "Output"
    )]
    pub format: Format,

    /// Serve metrics, reports and the page on this address, such as 127.0.0.1:19436 or unix:/run/connect-trace/mitigate.
    /// Can be repeated
    #[arg(long, value_name = "ADDRESS", help_heading = "Output")]
    pub listen: Vec<Address>,

    /// Print only errors and warnings on stderr, and no reports
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Print more on stderr; give it twice for debug messages
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,

    /// Options of the probes.
    #[command(flatten)]
    pub probes: ProbeArgs,
}

/// A strategy, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StrategyName {
    /// look up random ports, and bind the first that is free; from Linux 6.1
    SelectTestRepeat,
    /// bind the --addresses in turn, without a port; from Linux 5.10
    Addresses,
    /// IP_LOCAL_PORT_RANGE with the whole range, if the kernel lets a program set it
    FullRange,
}

/// `--share-by`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ShareByName {
    /// threads
    #[default]
    Thread,
    /// cgroups, such as the containers below --cgroup
    Cgroup,
}

/// The part of a service that acts on connections.
#[derive(Clone, Debug)]
pub(crate) struct Mitigates {
    pub(crate) settings: Settings,
    /// Format of the reports on stdout; `None` for none.
    pub(crate) printed: Option<Format>,
    /// Time after which the service ends.
    pub(crate) duration: Option<Duration>,
}

impl MitigateArgs {
    /// Returns a message if options exclude each other.
    pub(crate) fn contradiction(&self) -> Option<String> {
        if self.strategy != StrategyName::Addresses && !self.addresses.is_empty() {
            return Some("--addresses applies to the strategy addresses only".to_owned());
        }
        if self.share_by != ShareByName::default() && self.share == WHOLE {
            return Some("--share-by divides a --share, which is not given".to_owned());
        }
        (self.addresses.len() > MOST_SOURCES)
            .then(|| format!("--addresses takes up to {MOST_SOURCES} addresses"))
    }

    fn settings(&self) -> Settings {
        Settings {
            method: match self.strategy {
                StrategyName::SelectTestRepeat => Method::SelectTestRepeat,
                StrategyName::Addresses => Method::Addresses(self.addresses.clone()),
                StrategyName::FullRange => Method::FullRange,
            },
            cgroups: self.cgroups.clone(),
            when_above: self.when_above,
            share: self.share,
            share_by: match self.share_by {
                ShareByName::Thread => ShareBy::Thread,
                ShareByName::Cgroup => ShareBy::Cgroup,
            },
        }
    }

    /// Returns the service that mitigates.
    #[must_use]
    pub fn service(self) -> ServeArgs {
        let settings = self.settings();
        // Calls that are summed up have no thread, and a route is not known by them.
        let wants_every_call = settings.compares() || settings.when_above == 0;
        let filters = FilterArgs {
            cgroups: self.cgroups,
            min_latency: wants_every_call.then_some(Duration::ZERO),
            ..FilterArgs::default()
        };
        ServeArgs {
            listen: self.listen,
            config: None,
            by: By::Parity,
            top: 1,
            interval: self.interval,
            metrics_routes: 0,
            ports: false,
            filters,
            recording: RecordArgs::default(),
            probes: self.probes,
            max_overhead: None,
            quiet: self.quiet,
            verbose: self.verbose,
            given: Vec::new(),
            values: Default::default(),
            mitigates: Some(Mitigates {
                settings,
                printed: (!self.quiet).then_some(self.format),
                duration: self.duration,
            }),
        }
    }
}

/// Parses a share of threads, in parts of [`WHOLE`].
fn share(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .map(|percent: f64| (percent / 100.0 * f64::from(WHOLE)).round() as u32)
        .filter(|share| *share > 0)
        .ok_or_else(|| "must be a percentage such as 50%, from 0.01% to 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(arguments: &str) -> Result<MitigateArgs, String> {
        let words = ["connect-trace", "mitigate"].into_iter();
        let words = words.chain(arguments.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Mitigate(args)) = cli.command else {
            panic!("mitigate is asked for");
        };
        match args.contradiction() {
            Some(error) => Err(error),
            None => Ok(*args),
        }
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for wrong in [
            "select-test-repeat",
            "--cgroup /x",
            "--cgroup /x default",
            "--cgroup /x addresses",
            "--cgroup /x select-test-repeat --addresses 10.0.0.1",
            "--cgroup /x select-test-repeat --share 0%",
            "--cgroup /x select-test-repeat --share 101%",
            "--cgroup /x select-test-repeat --when-above 101%",
            "--cgroup /x select-test-repeat --when-above -1%",
            "--cgroup /x select-test-repeat --share-by cgroup",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        let many: Vec<String> = (0..65).map(|last| format!("10.0.0.{last}")).collect();
        let many = format!("--cgroup /x addresses --addresses {}", many.join(","));
        assert!(parsed(&many).unwrap_err().contains("up to 64"));
    }

    #[test]
    fn a_share_or_every_route_takes_a_record_of_every_call() {
        let min_latency = |arguments: &str| {
            let args = parsed(&format!("--cgroup /x select-test-repeat {arguments}")).unwrap();
            args.service().filters.min_latency
        };
        assert_eq!(min_latency(""), None, "the default of a service");
        for every in ["--share 50%", "--when-above 0%"] {
            assert_eq!(min_latency(every), Some(Duration::ZERO), "{every}");
        }
    }
}
