//! The settings of a trace, made from the command line and checked against this host.

use std::{ffi::OsString, time::Duration};

use anyhow::Result;

use super::args::TraceArgs;
use crate::{
    connect::Protocols,
    filter::{Filters, filters},
    flame::{HERTZ, args::FlameFiles},
    kernel::access,
    probes::ProbeConfig,
    recording::RecordArgs,
    report::OutputArgs,
    rules::RuleArgs,
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
    /// Settings of the recording.
    pub recording: RecordArgs,
    /// The rules that the connections must keep.
    pub rules: RuleArgs,
    /// True to print only errors and warnings on stderr.
    pub quiet: bool,
    /// The overhead limit in percent of one core. Above it, less is traced.
    pub max_overhead: Option<f64>,
    /// The files of a flame graph, if one is made.
    pub flame: Option<FlameFiles>,
    /// False if no reports are printed.
    pub reports: bool,
    /// True if the holders of ports are told.
    pub ports: bool,
}

impl Config {
    /// Checks the command line against this host.
    ///
    /// # Errors
    /// Names the process, cgroup, user or namespace that does not exist.
    pub fn resolve(args: TraceArgs) -> Result<Self> {
        if !args.traced.filters.pids.is_empty() || !args.traced.command.is_empty() {
            access::check_pid_namespace()?;
        }
        let filters = filters(&args.traced.filters)?;
        Ok(Self {
            probes: ProbeConfig {
                attach: args.probes.attach.into(),
                protocols: filters.protocols.unwrap_or(Protocols::TCP),
                checks: args.check_established.into(),
                time_wait: args.time_wait,
                filters: Filters {
                    follow: args.traced.follow,
                    ..filters
                },
                ring_buffer_bytes: args.probes.ring_buffer,
                max_in_flight: args.probes.max_in_flight,
                run_stats: args.overhead || args.max_overhead.is_some(),
                may_sample: args.max_overhead.is_some(),
                service: false,
                phases: args.phases,
                stacks_hertz: args.flame.is_some().then_some(HERTZ),
                max_connections: (args.ends || args.ports).then_some(args.max_connections),
                mitigation: None,
            },
            command: args.traced.command,
            duration: args.duration,
            output: args.output,
            recording: args.recording,
            rules: args.rules,
            quiet: args.quiet,
            max_overhead: args.max_overhead,
            flame: args.flame.map(FlameFiles::by_ending),
            reports: true,
            ports: args.ports,
        })
    }

    /// Returns true if stdout is the file of a recording or of a flame graph, so that reports go to stderr.
    pub(super) fn uses_stdout(&self) -> bool {
        let flame = self.flame.as_ref().map_or(0, FlameFiles::on_stdout);
        self.recording.uses_stdout() || flame > 0
    }
}
