//! One connection that a workload asked for, as user space saw it.

use std::net::IpAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One connection that was asked for, whether it came about or not.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Index of its run in the log's [`super::log::Head::runs`].
    pub run: u16,
    /// How many attempts of its run ended before it.
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
    /// Connections of the run that were open when it ended, its own not counted.
    pub held: u32,
    /// Source address, by getsockname; absent where it failed without one.
    pub source: Option<IpAddr>,
    /// Source port, by getsockname; absent where it failed.
    pub port: Option<u16>,
    /// 0, or the errno of the call that failed.
    pub errno: i32,
}

impl Attempt {
    /// When its connect() ended, since the beginning of its run.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.start_ns.saturating_add(self.whole_ns())
    }

    /// All the time that it took.
    #[must_use]
    pub fn whole_ns(&self) -> u64 {
        self.prepare_ns.saturating_add(self.connect_ns)
    }
}

/// Returns attempts as lines of CSV without a header, which costs less than JSON.
///
/// # Errors
/// None that can happen: no field refuses to be written.
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
/// Says which line is not as it is written.
pub(super) fn of_lines(lines: &str) -> Result<Vec<Attempt>> {
    let mut lines = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(lines.as_bytes());
    Ok(lines.deserialize().collect::<Result<_, _>>()?)
}
