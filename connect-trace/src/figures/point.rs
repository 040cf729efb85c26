//! One connect() as a chart shows it, from a recording or from the log of a workload.

use std::net::IpAddr;

use crate::{
    connect::{Comm, Connect, SourcePort},
    load::attempt::Attempt,
};

/// Outcome of a connect(), which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Successful, with an even port.
    Even,
    /// Successful, with an odd port.
    Odd,
    /// Successful, with a port that the socket already had, or an unknown port.
    Other,
    /// Failed.
    Failed,
}

/// Every kind, in the order of legends and of [`Kind::index`].
pub(super) const KINDS: [Kind; 4] = [Kind::Even, Kind::Odd, Kind::Other, Kind::Failed];

impl Kind {
    /// Index in [`KINDS`].
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// Name in legends.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Even => "even port",
            Self::Odd => "odd port",
            Self::Other => "bound before",
            Self::Failed => "failed",
        }
    }

    /// Class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Odd => "odd",
            Self::Other => "other",
            Self::Failed => "failed",
        }
    }

    fn of_port(port: u16) -> Self {
        if port.is_multiple_of(2) {
            Self::Even
        } else {
            Self::Odd
        }
    }
}

/// One connect().
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// Number of connections before it in the file.
    pub number: u64,
    /// Start, in nanoseconds since the beginning of the run.
    pub at_ns: u64,
    /// Time in connect(), nanoseconds.
    pub latency_ns: u64,
    /// Time in connect() and in everything that the strategy does before it (socket options, bind(), failed
    /// tries), in nanoseconds.
    pub whole_ns: u64,
    /// Outcome.
    pub kind: Kind,
    /// Source port.
    pub port: Option<u16>,
    /// 0, or the errno.
    pub errno: i32,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Name of the thread.
    pub comm: Option<Comm>,
    /// Share of the range that was in use when it began, 0 to 1; known only for a workload.
    pub share: Option<f64>,
}

impl Point {
    /// Creates the point of a connect() of a recording that began at `began_ns` of `CLOCK_MONOTONIC`.
    pub(super) fn of_connect(number: u64, began_ns: u64, connect: &Connect) -> Self {
        let kind = match (connect.errno, connect.port) {
            (0, SourcePort::Searched(port)) => Kind::of_port(port),
            (0, _) => Kind::Other,
            _ => Kind::Failed,
        };
        Self {
            number,
            at_ns: connect.start_ns.saturating_sub(began_ns),
            latency_ns: connect.connect_ns,
            whole_ns: connect.connect_ns,
            kind,
            port: connect.port.number(),
            errno: connect.errno,
            source: connect.source,
            comm: Some(connect.comm),
            share: None,
        }
    }

    /// Creates the point of an attempt of a run that can hold `capacity` connections.
    pub(super) fn of_attempt(attempt: &Attempt, capacity: u32) -> Self {
        let kind = match (attempt.errno, attempt.port) {
            (0, Some(port)) => Kind::of_port(port),
            (0, None) => Kind::Other,
            _ => Kind::Failed,
        };
        let share = f64::from(attempt.held) / f64::from(capacity);
        Self {
            number: attempt.number.into(),
            at_ns: attempt.start_ns,
            latency_ns: attempt.connect_ns,
            whole_ns: attempt.connect_ns.saturating_add(attempt.prepare_ns),
            kind,
            port: attempt.port,
            errno: attempt.errno,
            source: attempt.source,
            comm: None,
            share: (capacity > 0).then_some(share.min(1.0)),
        }
    }
}
