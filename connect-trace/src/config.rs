//! What to do, checked: made from the command line, and all that the daemon is told.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};

use crate::{cli::Cli, kernel::access, probes::ProbeConfig};

/// What to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to attach, and how.
    pub probes: ProbeConfig,
    /// When to end; `None` for a signal only.
    pub duration: Option<Duration>,
    /// Time between reports; `None` for one at the end.
    pub interval: Option<Duration>,
    /// Whether each report begins with the time of day.
    pub timestamp: bool,
}

impl Config {
    /// Checks the command line against this host.
    ///
    /// # Errors
    /// Names the process that does not exist.
    pub fn resolve(cli: Cli) -> Result<Self> {
        if !cli.pids.is_empty() {
            access::check_pid_namespace()?;
        }
        for pid in &cli.pids {
            ensure!(
                Path::new("/proc").join(pid.to_string()).exists(),
                "--pid {pid}: no such process"
            );
        }
        Ok(Self {
            probes: ProbeConfig {
                attach: cli.attach.into(),
                checks: cli.check_established.into(),
                pids: cli.pids,
                ring_buffer_bytes: cli.ring_buffer,
                max_in_flight: cli.max_in_flight,
            },
            duration: cli.duration,
            interval: cli.interval,
            timestamp: cli.timestamp,
        })
    }
}
