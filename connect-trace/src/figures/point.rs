//! One connect() as a chart shows it, from a recording or from the log of a workload.

use std::net::IpAddr;

use crate::{
    connect::{Cause, Comm, Connect, Outcome},
    load::attempt::Attempt,
};

/// Returns the name of an outcome in legends.
pub(super) fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Even => "even port",
        Outcome::Odd => "odd port",
        Outcome::Bound => "bound before",
        Outcome::Failed => "failed",
    }
}

/// Returns the class of an outcome in the style sheet.
pub(super) fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Even => "even",
        Outcome::Odd => "odd",
        Outcome::Bound => "other",
        Outcome::Failed => "failed",
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
    pub outcome: Outcome,
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
    /// Nanoseconds of each cause, in the order of [`Cause::ALL`]; known only for a recording with `--phases`.
    pub causes_ns: Option<[u64; Cause::ALL.len()]>,
}

impl Point {
    /// Creates the point of a connect() of a recording that began at `began_ns` of `CLOCK_MONOTONIC`.
    pub(super) fn of_connect(number: u64, began_ns: u64, connect: &Connect) -> Self {
        let outcome = Outcome::of(connect);
        Self {
            number,
            at_ns: connect.start_ns.saturating_sub(began_ns),
            latency_ns: connect.connect_ns,
            whole_ns: connect.connect_ns,
            outcome,
            port: connect.port.number(),
            errno: connect.errno,
            source: connect.source,
            comm: Some(connect.comm),
            share: None,
            causes_ns: connect.ns_by_cause(),
        }
    }

    /// Creates the point of an attempt of a run that can hold `capacity` connections.
    pub(super) fn of_attempt(attempt: &Attempt, capacity: u32) -> Self {
        let outcome = match (attempt.errno, attempt.port) {
            (0, Some(port)) => Outcome::of_port(port),
            (0, None) => Outcome::Bound,
            _ => Outcome::Failed,
        };
        let share = f64::from(attempt.held) / f64::from(capacity);
        Self {
            number: attempt.number.into(),
            at_ns: attempt.start_ns,
            latency_ns: attempt.connect_ns,
            whole_ns: attempt.connect_ns.saturating_add(attempt.prepare_ns),
            outcome,
            port: attempt.port,
            errno: attempt.errno,
            source: attempt.source,
            comm: None,
            share: (capacity > 0).then_some(share.min(1.0)),
            causes_ns: None,
        }
    }
}
