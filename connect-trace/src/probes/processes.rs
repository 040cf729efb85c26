//! The traced processes, and which of them are left. Their ends are known by pidfds; a program removes each from the
//! map `PIDS` as it ends, but the kernel may skip that program (since 7.0 tracepoints can be preempted).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};

use super::object::filters::{FOLLOWED, insert, remove};
use crate::kernel::process::{self, Process};

/// Interval between two looks at all processes of the map.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

const READ: &str = "read map PIDS";

/// The processes that are traced.
pub(super) struct Processes {
    /// The processes of `--pid` that have not ended.
    asked_for: Vec<Process>,
    /// The map `PIDS`: all traced processes, by id.
    traced: HashMap<MapData, u32, u8>,
    /// Time of the last look at the whole map.
    swept: Instant,
}

impl Processes {
    /// Creates the set of the processes in the map.
    pub(super) fn new(traced: HashMap<MapData, u32, u8>) -> Self {
        Self {
            asked_for: Vec::new(),
            traced,
            swept: Instant::now(),
        }
    }

    /// Sets the processes of `--pid`, opened before the programs were attached.
    pub(super) fn ask_for(&mut self, processes: Vec<Process>) {
        self.asked_for = processes;
    }

    /// Adds processes to those of the map.
    ///
    /// # Errors
    /// If the map refuses one.
    pub(super) fn add(&mut self, pids: &[u32]) -> Result<()> {
        insert(&mut self.traced, "PIDS", pids)
    }

    /// Removes those of `added` that `kept` lacks from the map, and those of `kept` that have ended: the program that
    /// removes a process may have run before the process was added.
    ///
    /// # Errors
    /// If the map refuses that.
    pub(super) fn keep_only(&mut self, kept: &[Process], added: &[u32]) -> Result<()> {
        let left = kept.iter().filter(|process| !process.has_ended());
        let left: Vec<u32> = left.map(|process| process.pid).collect();
        remove(&mut self.traced, "PIDS", added, &left)?;
        let kept: Vec<u32> = kept.iter().map(|process| process.pid).collect();
        remove(&mut self.traced, "PIDS", &kept, &left)
    }

    /// Removes processes that have ended from the map, and returns whether any is left. `skipped` is called once a
    /// second, and returns whether the kernel may have skipped the program that removes them.
    pub(super) fn any_left(&mut self, skipped: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let Self {
            asked_for, traced, ..
        } = self;
        asked_for.retain(|process| {
            let has_ended = process.has_ended();
            if has_ended {
                // The process is in the map only if the program was skipped.
                let _ = traced.remove(&process.pid);
            }
            !has_ended
        });
        if self.swept.elapsed() > SWEEP_EVERY {
            self.swept = Instant::now();
            if skipped()? {
                self.left()?;
            }
        }
        if !self.asked_for.is_empty() {
            return Ok(true);
        }
        // Only children, if they are followed, can be left.
        for _ in 0..FOLLOWED {
            let Some(pid) = self.traced.keys().next().transpose().context(READ)? else {
                return Ok(false);
            };
            if process::is_running(pid) {
                return Ok(true);
            }
            let _ = self.traced.remove(&pid);
        }
        Ok(true)
    }

    /// Removes processes that have ended from the map, and returns the ids of the others.
    pub(super) fn left(&mut self) -> Result<Vec<u32>> {
        // The number is limited: while ids come and go, the kernel may begin again from the first one.
        let ids = self.traced.keys().take(FOLLOWED);
        let ids = ids.collect::<Result<Vec<u32>, _>>().context(READ)?;
        let (left, ended): (Vec<u32>, _) =
            ids.into_iter().partition(|&pid| process::is_running(pid));
        for pid in ended {
            let _ = self.traced.remove(&pid);
        }
        Ok(left)
    }
}
