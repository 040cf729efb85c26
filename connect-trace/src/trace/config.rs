//! The settings of a trace, made from the command line and checked against this host.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::Result;

use super::args::TraceArgs;
use crate::{
    filter::{Filters, filters},
    kernel::access,
    probes::ProbeConfig,
    report::OutputArgs,
};

/// The settings of a trace.
#[derive(Clone, Debug)]
pub struct Config {
    /// Settings of the probes.
    pub probes: ProbeConfig,
    /// The command to start and to trace, with its arguments; empty for none.
    pub command: Vec<OsString>,
    /// Time after which the trace ends; `None` to wait for a signal, or the end of the command.
    pub duration: Option<Duration>,
    /// Settings of the output.
    pub output: OutputArgs,
    /// File to which every connect() is recorded.
    pub record: Option<PathBuf>,
    /// True to print only errors and warnings on stderr.
    pub quiet: bool,
    /// The overhead limit in percent of one core. Above it, less is traced.
    pub max_overhead: Option<f64>,
}

impl Config {
    /// Checks the command line against this host.
    ///
    /// # Errors
    /// Names the process, cgroup, user or namespace that does not exist.
    pub fn resolve(args: TraceArgs) -> Result<Self> {
        if !args.filters.pids.is_empty() || !args.command.is_empty() {
            access::check_pid_namespace()?;
        }
        Ok(Self {
            probes: ProbeConfig {
                attach: args.attach.into(),
                checks: args.check_established.into(),
                filters: Filters {
                    follow: args.follow,
                    ..filters(&args.filters)?
                },
                ring_buffer_bytes: args.ring_buffer,
                max_in_flight: args.max_in_flight,
                run_stats: args.overhead || args.max_overhead.is_some(),
                may_sample: args.max_overhead.is_some(),
                max_connections: args.ends.then_some(args.max_connections),
            },
            command: args.command,
            duration: args.duration,
            output: args.output,
            record: args.record,
            quiet: args.quiet,
            max_overhead: args.max_overhead,
        })
    }
}
