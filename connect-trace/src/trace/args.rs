//! The options of a trace.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ValueEnum};

use crate::{
    connect::CheckMode,
    filter::FilterArgs,
    options::values::{duration, percent, ring_buffer},
    probes::{MAX_IN_FLIGHT, attach::AttachMode},
    report::OutputArgs,
};

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
