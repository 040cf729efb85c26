//! Keys by which the connections of a report are split.

use clap::ValueEnum;

/// The value of `--by`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// even and odd source port
    #[default]
    Parity,
    /// pass of the port search that found the port
    Pass,
    /// return value of the kernel's function
    Errno,
    /// destination address and port
    Destination,
    /// source address
    Source,
    /// process id
    Pid,
    /// name of the thread
    Comm,
    /// user id
    Uid,
    /// cgroup id
    Cgroup,
    /// pod of Kubernetes by its uid, or container, from the path of the cgroup
    Pod,
    /// network namespace
    Netns,
    /// protocol, and connect(), bind() or send()
    Protocol,
    /// IPv4, IPv6 or v4-mapped
    Family,
    /// how the source port was chosen; ranges set on a socket are grouped by width
    Strategy,
}
