//! One connection that a workload requested, as user space saw it.

use std::net::IpAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One connection that was requested, successful or not.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Index of its run in the log's [`super::log::Head::runs`].
    pub run: u16,
    /// Number of attempts of its run that ended before it.
    pub number: u32,
    /// Thread of the workload, from 0.
    pub thread: u16,
    /// Start, in nanoseconds since the beginning of its run.
    pub start_ns: u64,
    /// Total time of everything that the strategy does besides the connect() that is timed: socket options,
    /// bind(), failed tries.
    pub prepare_ns: u64,
    /// Time in the decisive connect(): the one that succeeded, or the last one.
    pub connect_ns: u64,
    /// Number of ports or windows that were tried: 1 for every strategy that does not repeat.
    pub tries: u32,
    /// Open connections of the run when this attempt ended, without its own.
    pub held: u32,
    /// Source address, by getsockname(); absent if the attempt failed without one.
    pub source: Option<IpAddr>,
    /// Source port, by getsockname(); absent if the attempt failed.
    pub port: Option<u16>,
    /// 0, or the errno of the call that failed.
    pub errno: i32,
}

impl Attempt {
    /// End of its connect(), in nanoseconds since the beginning of its run.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.whole_ns())
    }

    /// Time of the whole attempt: preparation and connect().
    #[must_use]
    pub fn whole_ns(&self) -> u64 {
        self.prepare_ns.saturating_add(self.connect_ns)
    }
}

/// Returns attempts as lines of CSV without a header, which costs less than JSON.
///
/// # Errors
/// Never in practice: every field can be serialized.
pub(super) fn lines(attempts: &[Attempt]) -> Result<String> {
    let mut lines = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    for attempt in attempts {
        lines.serialize(attempt)?;
    }
    Ok(String::from_utf8(lines.into_inner()?)?)
}

/// Reads the attempts of [`lines`].
///
/// # Errors
/// Names the line that cannot be parsed.
pub(super) fn of_lines(lines: &str) -> Result<Vec<Attempt>> {
    let mut lines = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(lines.as_bytes());
    Ok(lines.deserialize().collect::<Result<_, _>>()?)
}
