//! A request of a client for something that the service alone knows.

use tokio::sync::oneshot;

use crate::metrics::Format;

/// Maximum number of requests that wait for the service.
pub(super) const WAITING: usize = 64;

/// A request, with the sender of its answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) wanted: Wanted,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// The part of the service that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// `/`, whose script and style are allowed by this number, which nobody can guess.
    Page {
        /// The number.
        nonce: u128,
    },
    /// `/metrics`
    Metrics(Format),
    /// `/report`
    Report,
    /// `/ports`
    Ports,
    /// `/healthz`
    Health,
    /// `/readyz`
    Readiness,
}

/// An answer: an HTTP status, the type of the body, and the body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Returns an answer of plain text; `text` has no line feed at its end.
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{text}\n").into_bytes(),
        }
    }
}
