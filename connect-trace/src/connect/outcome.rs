//! The outcome of a connect(), by which reports and figures split.

use connect_trace_common::FastKind;

use super::{Connect, SourcePort};

/// The outcome of a connect().
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Successful, with an even port that the search found.
    Even,
    /// Successful, with an odd port that the search found.
    Odd,
    /// Successful, with a port that the socket had before, or one that is not known.
    Bound,
    /// Failed.
    Failed,
}

impl Outcome {
    /// All outcomes, in the order of legends.
    pub const ALL: [Self; 4] = [Self::Even, Self::Odd, Self::Bound, Self::Failed];

    /// Returns the index in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the outcome of a connect().
    #[must_use]
    pub fn of(connect: &Connect) -> Self {
        match connect.port {
            _ if connect.errno != 0 => Self::Failed,
            SourcePort::Searched(port) => Self::of_port(port),
            SourcePort::Bound(_) | SourcePort::None => Self::Bound,
        }
    }

    /// Returns the outcome of the calls of a kind.
    #[must_use]
    pub fn of_kind(kind: FastKind) -> Self {
        if kind.has(FastKind::FAILED) {
            Self::Failed
        } else if kind.has(FastKind::PORT_BOUND) {
            Self::Bound
        } else if kind.has(FastKind::ODD) {
            Self::Odd
        } else {
            Self::Even
        }
    }

    /// Returns the outcome of a successful search that found this port.
    #[must_use]
    pub fn of_port(port: u16) -> Self {
        if port.is_multiple_of(2) {
            Self::Even
        } else {
            Self::Odd
        }
    }
}
