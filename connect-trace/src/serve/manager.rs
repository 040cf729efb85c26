//! The service manager, systemd: what it is told of the service, by the protocol of sd_notify(3). Without a manager, which
//! is known by its variables in the environment, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// The manager.
pub(super) struct Manager {
    /// Time between two signs of life; `None` if the manager waits for none.
    watchdog: Option<Duration>,
    /// Time of the last sign of life.
    alive_at: Option<Instant>,
}

impl Manager {
    /// Reads the environment.
    pub(super) fn of_environment() -> Self {
        Self {
            // A sign can be late by as much again.
            watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            alive_at: None,
        }
    }

    /// Says that the probes are attached and the sockets listen, and how.
    pub(super) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Gives a sign of life, if one is due. To be called by the loop that empties the ring buffer, each time it has read
    /// it: the manager restarts a service whose loop hangs.
    pub(super) fn alive(&mut self) {
        let Some(watchdog) = self.watchdog else {
            return;
        };
        if self.alive_at.is_none_or(|at| at.elapsed() >= watchdog) {
            self.alive_at = Some(Instant::now());
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Says that the service ends.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told the state (NOTIFY_SOCKET): {error}");
    }
}
