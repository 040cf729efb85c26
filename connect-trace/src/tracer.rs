//! The probes, their ring buffer and the decoder together: connects come out of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use connect_trace_common::Counters;

use crate::{
    accounting::Accounting,
    event::{Connect, Decoder},
    overhead::Overhead,
    own_use::{self, OwnUse},
    probes::{ProbeConfig, Probes},
};

/// A trace that is running.
pub struct Tracer {
    probes: Probes,
    records: RingBuf<MapData>,
    decoder: Decoder,
    decoded: u64,
    undecodable: u64,
    detached: bool,
    blind: Duration,
}

impl Tracer {
    /// Attaches the probes; from here on every connect() is recorded.
    ///
    /// # Errors
    /// As [`Probes::attach`].
    pub fn start(config: &ProbeConfig) -> Result<Self> {
        let mut probes = Probes::attach(config)?;
        let records = probes
            .take_records()
            .context("the ring buffer has been taken")?;
        let decoder = Decoder::new(probes.layout());
        Ok(Self {
            probes,
            records,
            decoder,
            decoded: 0,
            undecodable: 0,
            detached: false,
            blind: Duration::ZERO,
        })
    }

    /// The probes.
    pub fn probes(&mut self) -> &mut Probes {
        &mut self.probes
    }

    /// Hands over every connect that is in the ring buffer, and passes on what the programs logged.
    ///
    /// Stops after `budget`, so that a flood cannot keep the caller from everything else.
    pub fn drain(&mut self, budget: Duration, mut each: impl FnMut(&Connect)) {
        /// Records between two looks at the clock.
        const BATCH: u32 = 1024;
        let start = Instant::now();
        let mut batch = 0;
        while let Some(record) = self.records.next() {
            match self.decoder.decode(&record) {
                Some(connect) => {
                    self.decoded += 1;
                    each(&connect);
                }
                None => self.undecodable += 1,
            }
            batch += 1;
            if batch % BATCH == 0 && start.elapsed() > budget {
                break;
            }
        }
        self.probes.flush_log();
    }

    /// Number of connects that were handed over.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// No call was seen for so long more, because the probes were detached for a while.
    pub fn was_blind(&mut self, time: Duration) {
        self.blind += time;
    }

    /// What it costs, since the start; `None` where the kernel does not count that.
    ///
    /// # Errors
    /// Where the counts cannot be read.
    pub fn overhead(&self) -> Result<Option<Overhead>> {
        let Some(programs) = self.probes.runs()? else {
            return Ok(None);
        };
        let counters = self.probes.maps().counters()?;
        Ok(Some(Overhead {
            calls: counters.entered + counters.filtered,
            programs,
            own: OwnUse::now(),
        }))
    }

    /// What all programs have run for, and the CPU time of this process, since the start; `None` where the
    /// kernel does not count that.
    ///
    /// # Errors
    /// Where the counts cannot be read.
    pub fn cpu_times(&self) -> Result<Option<(Duration, Duration)>> {
        let programs = self.probes.runs()?;
        Ok(programs.map(|programs| {
            let run_time = programs.iter().map(|program| program.time).sum();
            (run_time, own_use::cpu())
        }))
    }

    /// Detaches the probes. What is in the ring buffer can still be drained.
    ///
    /// # Errors
    /// As [`Probes::detach`].
    pub fn stop(&mut self) -> Result<()> {
        self.probes.detach()?;
        self.detached = true;
        Ok(())
    }

    /// Accounts for every call since the start.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn accounting(&self) -> Result<Accounting> {
        let maps = self.probes.maps();
        let before = maps.counters()?;
        let in_flight = maps.in_flight()?;
        let after = maps.counters()?;
        let misses = self.probes.misses()?;
        // Between the two readings calls may have entered, and calls in flight returned. A reading of
        // all CPUs takes its time too: one call more is within the tolerance.
        let ended = |counters: &Counters| {
            counters.reported + counters.succeeded + counters.fast + counters.unsampled
        };
        let moved = (after.entered - before.entered) + (ended(&after) - ended(&before));
        Ok(Accounting {
            kernel: after,
            decoded: self.decoded,
            undecodable: self.undecodable,
            in_flight,
            recursion_misses: misses.recursion,
            kretprobe_misses: misses.returns,
            moved: if self.detached { 0 } else { moved + 1 },
            blind: self.blind,
            unknown: None,
        })
    }
}
