//! One connection that a workload asked for, as user space saw it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// One connection that was asked for, whether it came about or not.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Index of its run in the log's [`super::log::Head::runs`].
    pub run: u16,
    /// How many were asked for before it in its run.
    pub number: u32,
    /// Thread of the workload, from 0.
    pub thread: u16,
    /// When it began, since the beginning of its run.
    pub start_ns: u64,
    /// Time in all that the strategy does besides the connect() that is timed: socket options, bind(), tries
    /// that failed.
    pub prepare_ns: u64,
    /// Time in the connect() that decided: the one that succeeded, or the last.
    pub connect_ns: u64,
    /// How many ports were tried: 1 but for select-test-repeat.
    pub tries: u32,
    /// Connections of the run that were open when it began, its own not counted.
    pub held: u32,
    /// Source address, by getsockname; absent where it failed without one.
    pub source: Option<IpAddr>,
    /// Source port, by getsockname; absent where it failed.
    pub port: Option<u16>,
    /// 0, or the errno of the call that failed.
    pub errno: i32,
}
