//! The probes, their ring buffer and the decoder together: connects come out of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use connect_trace_common::Counters;

use crate::{
    clock::monotonic_ns,
    connect::{Connect, Decoder},
    overhead::{
        Overhead,
        process_usage::{self, ProcessUsage},
    },
    probes::{ProbeConfig, Probes},
    stats::accounting::Accounting,
    trace::loss_log::LossLog,
};

/// A trace that is running.
pub struct Tracer {
    probes: Probes,
    records: Records,
    loss_log: LossLog,
    missed_checks: MissedChecks,
    detached: bool,
    blind: Duration,
}

/// A ring buffer of records and what makes connects of them.
pub struct Records {
    ring: RingBuf<MapData>,
    decoder: Decoder,
    decoded: u64,
    undecodable: u64,
}

impl Records {
    /// Of this ring buffer, by this decoder.
    #[must_use]
    pub fn new(ring: RingBuf<MapData>, decoder: Decoder) -> Self {
        Self {
            ring,
            decoder,
            decoded: 0,
            undecodable: 0,
        }
    }

    /// Hands over every connect that is in the ring buffer.
    ///
    /// Stops after `budget`, so that a flood cannot keep the caller from everything else. Says whether it came
    /// to the end before.
    pub fn drain(&mut self, budget: Duration, mut each: impl FnMut(&Connect)) -> bool {
        /// Records between two looks at the clock.
        const BATCH: u32 = 1024;
        let start = Instant::now();
        let mut batch = 0;
        while let Some(record) = self.ring.next() {
            match self.decoder.decode(&record) {
                Some(connect) => {
                    self.decoded += 1;
                    each(connect);
                }
                None => self.undecodable += 1,
            }
            batch += 1;
            if batch % BATCH == 0 && start.elapsed() > budget {
                return false;
            }
        }
        true
    }

    /// Number of connects that were handed over.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }
}

impl Tracer {
    /// Attaches the probes; from here on every connect() is recorded.
    ///
    /// # Errors
    /// As [`Probes::attach`].
    pub fn start(config: &ProbeConfig) -> Result<Self> {
        let mut probes = Probes::attach(config)?;
        let ring = probes
            .take_records()
            .context("the ring buffer has been taken")?;
        let decoder = Decoder::new(probes.layout());
        Ok(Self {
            records: Records::new(ring, decoder),
            probes,
            loss_log: LossLog::default(),
            missed_checks: MissedChecks::default(),
            detached: false,
            blind: Duration::ZERO,
        })
    }

    /// The probes.
    pub fn probes(&mut self) -> &mut Probes {
        &mut self.probes
    }

    /// Hands over every connect that is in the ring buffer, as [`Records::drain`] does, and passes on
    /// what the programs logged. Says whether that was all.
    pub fn drain(&mut self, budget: Duration, each: impl FnMut(&Connect)) -> bool {
        let is_empty = if self.probes.watcher().mode().counts() {
            self.drain_counted(budget, each)
        } else {
            self.records.drain(budget, each)
        };
        self.probes.flush_log();
        let probes = &self.probes;
        self.loss_log.look(|| probes.maps().counters());
        is_empty
    }

    /// As [`Records::drain`], without the count of port checks in connects for which a program may have been skipped.
    fn drain_counted(&mut self, budget: Duration, mut each: impl FnMut(&Connect)) -> bool {
        // A miss is only known to belong to a connect() once the counter is read after that connect() has ended.
        let mut connects = Vec::new();
        let is_empty = self
            .records
            .drain(budget, |connect| connects.push(*connect));
        match self.probes.missed_checks() {
            Ok(missed) => self.missed_checks.are(missed.unwrap_or(0)),
            Err(error) => log::debug!("{error:#}"),
        }
        for connect in &mut connects {
            if self.missed_checks.may_concern(connect) {
                connect.checks = None;
            }
            each(connect);
        }
        is_empty
    }

    /// Number of connects that were handed over.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.records.decoded()
    }

    /// No call was seen for so long more, because the probes were detached for a while.
    pub fn add_detached(&mut self, time: Duration) {
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
        let counters = self.probes.maps().counters();
        Ok(Some(Overhead {
            calls: counters.entered + counters.filtered,
            programs,
            own: ProcessUsage::now(),
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
            (run_time, process_usage::cpu())
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
        let before = maps.counters();
        let in_flight = maps.in_flight()?;
        let after = maps.counters();
        let misses = self.probes.misses()?;
        // Between the two readings calls may have entered, and calls in flight returned. A reading of
        // all CPUs takes its time too: one call more is within the tolerance.
        let ended = |counters: &Counters| {
            counters.reported
                + counters.ring_full
                + counters.return_missed
                + counters.succeeded
                + counters.fast
                + counters.unsampled
        };
        let moved = (after.entered - before.entered) + (ended(&after) - ended(&before));
        Ok(Accounting {
            kernel: after,
            decoded: self.records.decoded,
            undecodable: self.records.undecodable,
            in_flight,
            recursion_misses: misses.recursion,
            kretprobe_misses: misses.returns,
            fork_misses: misses.forks,
            thread_end_misses: misses.thread_ends,
            moved: if self.detached { 0 } else { moved + 1 },
            blind: self.blind,
            unknown: None,
        })
    }
}

/// Misses of the programs that count port checks: the kernel says how many there were, not of which connect().
#[derive(Default)]
struct MissedChecks {
    count: u64,
    /// When the last one was noticed, nanoseconds of `CLOCK_MONOTONIC`; 0 before the first.
    noticed_ns: u64,
}

impl MissedChecks {
    /// Notes the kernel's count.
    fn are(&mut self, count: u64) {
        if count != self.count {
            self.count = count;
            self.noticed_ns = monotonic_ns();
        }
    }

    /// Returns whether a miss may be of this connect: it began before the last one was noticed, and had not been handed
    /// over by then.
    fn may_concern(&self, connect: &Connect) -> bool {
        connect.start_ns < self.noticed_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    #[test]
    fn connects_that_began_before_a_miss_was_noticed_have_no_count() {
        let mut missed = MissedChecks::default();
        let began_at = |start_ns| Connect {
            start_ns,
            ..connect_from(20_000)
        };
        missed.are(0);
        assert!(!missed.may_concern(&began_at(1)));
        let before = monotonic_ns();
        missed.are(3);
        let after = monotonic_ns() + 1;
        assert!(missed.may_concern(&began_at(before)));
        assert!(!missed.may_concern(&began_at(after)));
        missed.are(3);
        assert!(!missed.may_concern(&began_at(after)), "no new miss");
    }
}
