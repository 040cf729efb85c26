//! The options of a trace.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, ArgGroup, Args, ValueEnum};

use crate::{
    connect::CheckMode,
    filter::FilterArgs,
    flame::args::file_of_format,
    options::values::{duration, percent, ring_buffer},
    probes::{MAX_CONNECTIONS, MAX_IN_FLIGHT, attach::AttachMode},
    recording::RecordArgs,
    report::OutputArgs,
    rules::RuleArgs,
};

/// The connections to trace.
#[derive(Args, Clone, Debug)]
pub struct TracedArgs {
    /// Filters of the connections to trace.
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
}

/// The probes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Probes")]
pub struct ProbeArgs {
    /// How to attach the probes
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub attach: Attach,

    /// Size of each ring buffer between kernel and daemon: a power of two, with K, M or G
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = ring_buffer)]
    pub ring_buffer: u32,

    /// Maximum number of connect() calls in flight at once
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_IN_FLIGHT, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_in_flight: u32,
}

/// Tracing.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("following").args(["ends", "ports"]).multiple(true))]
pub struct TraceArgs {
    /// The connections to trace.
    #[command(flatten)]
    pub traced: TracedArgs,

    /// Follow each connection after connect(): report when it is established, refused, closed or reset, and how long the
    /// handshake took
    #[arg(long, help_heading = "What to trace")]
    pub ends: bool,

    /// Tell who holds the ports of the fullest routes, TIME_WAIT included, and when they run out. Follows connections as
    /// --ends does, and makes a record of each call
    #[arg(long, conflicts_with_all = ["min_latency", "failed"], help_heading = "What to trace")]
    pub ports: bool,

    /// Stop after this time, such as 10 (seconds), 1.5m or 2h
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Options of the output.
    #[command(flatten)]
    pub output: OutputArgs,

    /// Options of a recording.
    #[command(flatten)]
    pub recording: RecordArgs,

    /// Rules.
    #[command(flatten)]
    pub rules: RuleArgs,

    /// Draw a flame graph of the kernel stacks of threads inside connect() into this file at the end of the trace. Its
    /// ending is the format: .svg, .folded, or .json for speedscope. With -, write folded stacks to stdout
    #[arg(long, value_name = "FILE", value_parser = file_of_format, help_heading = "Output")]
    pub flame: Option<PathBuf>,

    /// Print only errors and warnings on stderr
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Print more on stderr; give it twice for debug messages
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Output")]
    pub verbose: u8,

    /// Options of the probes.
    #[command(flatten)]
    pub probes: ProbeArgs,

    /// How to watch __inet_check_established, which checks one candidate port
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        help_heading = "Probes"
    )]
    pub check_established: CheckEstablished,

    /// Tell where the time of each connect() goes: before, in and after the port search, waits for a CPU and waits for
    /// locks. Costs two lookups for each context switch of the host
    #[arg(long, help_heading = "What to trace")]
    pub phases: bool,
    /// Count the candidate ports in TIME_WAIT that searches met: those that the kernel refused, and those that it reused
    #[arg(long, help_heading = "Probes")]
    pub time_wait: bool,

    /// With --ends or --ports, maximum number of connections that are followed at once
    #[arg(long, value_name = "NUMBER", default_value_t = MAX_CONNECTIONS, requires = "following", value_parser = clap::value_parser!(u32).range(1..=1 << 20), help_heading = "Probes")]
    pub max_connections: u32,

    /// Report the cost of the trace: the run time of the eBPF programs, and the CPU time and memory of connect-trace.
    /// To measure it, the kernel reads the clock twice for each run of a program
    #[arg(long, help_heading = "Cost")]
    pub overhead: bool,

    /// Reduce tracing when overhead exceeds PERCENT of one core, such as 1% or 0.5%: stop watching port checks, then
    /// sample connect() calls, then detach the probes for a while. Each change is logged. Implies --overhead
    #[arg(long, value_name = "PERCENT", value_parser = percent, help_heading = "Cost")]
    pub max_overhead: Option<f64>,
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
