//! The options of `connect-trace check`.

use std::path::PathBuf;

use clap::Args;

use crate::{connect::PortRange, options::Format};

/// `connect-trace check`
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Print text for people, or JSON for programs (docs/check.md lists the fields)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,

    /// Check a range of ports that a program would set on its sockets (IP_LOCAL_PORT_RANGE): the kernel ignores what lies
    /// outside of net.ipv4.ip_local_port_range
    #[arg(long, value_name = "LOW-HIGH", conflicts_with = "config")]
    pub window: Option<PortRange>,

    /// Check this configuration file of `connect-trace serve` instead of the host, with the names in it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
