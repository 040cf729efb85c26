//! The service manager that started this process, such as systemd: it is told when the service is ready, that its loop runs,
//! and that it ends (sd_notify(3)). Without one, which its variables in the environment show, nothing is told.

use std::time::{Duration, Instant};

use sd_notify::{NotifyState, notify, watchdog_enabled};

/// Number of signs of life within the time after which the manager takes the service for dead.
const SIGNS: u32 = 4;

/// The manager's view of the service.
#[derive(Debug)]
pub(super) struct Manager {
    /// How the service traces and where it listens, in one line.
    status: String,
    /// Time between two signs of life; `None` if the manager wants none.
    pause: Option<Duration>,
    /// Time of the last sign of life; `None` before the service is ready.
    last: Option<Instant>,
}

impl Manager {
    /// Reads from the environment what the manager wants.
    pub(super) fn of_this_process(status: String) -> Self {
        Self {
            status,
            pause: watchdog_enabled().map(|limit| limit / SIGNS),
            last: None,
        }
    }

    /// Tells that the ring buffer was read: after the first time that it was emptied, the service is ready. From then on
    /// each reading is a sign of life, also one that leaves something: a busy service is not dead.
    pub(super) fn drained(&mut self, is_empty: bool) {
        let now = Instant::now();
        match (self.last, self.pause) {
            (None, _) if is_empty => {
                tell(&[NotifyState::Ready, NotifyState::Status(&self.status)]);
            }
            (Some(last), Some(pause)) if now.duration_since(last) >= pause => {
                tell(&[NotifyState::Watchdog]);
            }
            _ => return,
        }
        self.last = Some(now);
    }

    /// Tells that the service changes its options, until [`reloaded`](Self::reloaded).
    pub(super) fn reloads() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => log::debug!("read the clock: {error}"),
        }
    }

    /// Tells that the service goes on, with other options or the same.
    pub(super) fn reloaded(&self) {
        if self.last.is_some() {
            tell(&[NotifyState::Ready]);
        }
    }

    /// Tells that the service of this process ends.
    pub(super) fn ends() {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        log::warn!("cannot tell the service manager {states:?}: {error}");
    }
}
