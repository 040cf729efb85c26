//! Switching between levels while a trace runs, to keep the overhead limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};

use super::{
    attach::attachment::Attachment,
    checks::{Burst, Switch},
    read::{maps::Maps, run_stats::RunStats},
};
use crate::overhead::limiter::Level;

/// Switches from one level to another; a handle for the thread that does it.
#[derive(Clone)]
pub struct LevelSwitch {
    pub(super) attachment: Arc<Mutex<Attachment>>,
    pub(super) watching: Switch,
    pub(super) maps: Arc<Maps>,
    pub(super) stats: Option<Arc<RunStats>>,
    /// True if the programs stay attached at [`Level::Detached`], and ignore each call: a service has no privileges left to
    /// attach them again.
    pub(super) stays_attached: bool,
}

impl LevelSwitch {
    /// Switches from one level to another. Returns the burst that it ended, if nobody else waits for it. Blocks while
    /// the kernel attaches and detaches, up to seconds.
    ///
    /// # Errors
    /// If the kernel refuses to attach or detach.
    pub fn go(&self, from: Level, to: Level) -> Result<Option<Burst>> {
        self.change(from, to)
            .with_context(|| format!("keep --max-overhead: change to {to}"))
    }

    fn change(&self, from: Level, to: Level) -> Result<Option<Burst>> {
        let mut burst = None;
        if to != Level::Full {
            burst = self.watching.off()?;
        }
        if let Some(every) = to.sample_every() {
            self.maps.set_sample_every(every);
        }
        match (from == Level::Detached, to == Level::Detached) {
            (false, true) if self.stays_attached => self.maps.shut(),
            (true, false) if self.stays_attached => self.maps.open(),
            (false, true) => {
                self.maps.close()?;
                attachment(&self.attachment).detach()?;
            }
            (true, false) => {
                attachment(&self.attachment).attach(self.stats.as_deref())?;
                self.maps.open();
            }
            _ => {}
        }
        if to == Level::Full && from != Level::Full {
            self.watching.on()?;
        }
        Ok(burst)
    }
}

/// Locks the attachment, ignoring poisoning.
pub(super) fn attachment(shared: &Mutex<Attachment>) -> MutexGuard<'_, Attachment> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
