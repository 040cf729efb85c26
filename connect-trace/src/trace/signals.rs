//! The signals that a trace answers.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that a trace handles.
pub(crate) struct Signals {
    pub(crate) interrupt: Signal,
    pub(crate) terminate: Signal,
    pub(crate) hangup: Signal,
    pub(crate) child: Signal,
    /// Caught so that it does not end this process if files may not grow (`ulimit -f`): writes then fail with an error.
    _file_size: Signal,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("wait for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("wait for SIGTERM")?,
            hangup: signal(SignalKind::hangup()).context("wait for SIGHUP")?,
            child: signal(SignalKind::child()).context("wait for SIGCHLD")?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ)).context("catch SIGXFSZ")?,
        })
    }
}
