//! The probes, their ring buffer and the decoder together: a source of [`Connect`]s.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use connect_trace_common::Counters;

use crate::{
    clock::monotonic_ns,
    connect::{Connect, ConnectionEvent, Decoder},
    overhead::{
        Overhead, estimate,
        process_usage::{self, ProcessUsage},
    },
    probes::{ProbeConfig, Probes, ends::Ends},
    stats::{EndsAccount, accounting::Accounting},
    trace::{ends::EndRecords, loss_log::LossLog},
};

/// A trace that is running.
pub struct Tracer {
    probes: Probes,
    records: Records,
    /// The ends, if connections are followed.
    ends: Option<EndRecords>,
    loss_log: LossLog,
    missed_checks: MissedChecks,
    detached: bool,
    blind: Duration,
}

/// A ring buffer of records, and the decoder that turns them into [`Connect`]s.
pub struct Records {
    ring: RingBuf<MapData>,
    decoder: Decoder,
    decoded: u64,
    undecodable: u64,
}

impl Records {
    /// Creates a reader of this ring buffer with this decoder.
    #[must_use]
    pub fn new(ring: RingBuf<MapData>, decoder: Decoder) -> Self {
        Self {
            ring,
            decoder,
            decoded: 0,
            undecodable: 0,
        }
    }

    /// Passes every connect() in the ring buffer to `each`.
    ///
    /// Stops after `budget`, so that a flood cannot keep the caller from its other work. Returns whether the buffer was
    /// emptied.
    pub fn drain(&mut self, budget: Duration, mut each: impl FnMut(&Connect)) -> bool {
        /// Number of records between two readings of the clock.
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

    /// Returns the number of connect() calls that were passed on.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded
    }
}

impl Tracer {
    /// Attaches the probes; from here on every connect() is recorded.
    ///
    /// # Errors
    /// The same as for [`Probes::attach`].
    pub fn start(config: &ProbeConfig) -> Result<Self> {
        let mut probes = Probes::attach(config)?;
        let ring = probes
            .take_records()
            .context("the ring buffer has been taken")?;
        let decoder = Decoder::new(probes.layout());
        let end_ring = probes.ends().and_then(Ends::take_records);
        let end_decoder = decoder.clone();
        Ok(Self {
            records: Records::new(ring, decoder),
            ends: end_ring.map(|ring| EndRecords::new(ring, end_decoder)),
            probes,
            loss_log: LossLog::default(),
            missed_checks: MissedChecks::default(),
            detached: false,
            blind: Duration::ZERO,
        })
    }

    /// Returns the probes.
    pub fn probes(&mut self) -> &mut Probes {
        &mut self.probes
    }

    /// Passes every connect() in the ring buffer to `each`, as [`Records::drain`] does, and passes the programs'
    /// messages on to the log. Returns whether the buffer was emptied.
    pub fn drain(&mut self, budget: Duration, each: impl FnMut(&Connect)) -> bool {
        let is_empty = if self.probes.watcher().mode().counts() {
            self.drain_counted(budget, each)
        } else {
            self.records.drain(budget, each)
        };
        self.probes.flush_log();
        let probes = &self.probes;
        self.loss_log
            .look(|| (probes.maps().counters(), probes.maps().ends()));
        is_empty
    }

    /// Passes every event of the connections that are followed to `each`, and stops after `budget`. Returns whether the
    /// buffer was emptied. An event may come before its connect().
    pub fn drain_ends(&mut self, budget: Duration, mut each: impl FnMut(&ConnectionEvent)) -> bool {
        let missed_checks = &self.missed_checks;
        self.ends.as_mut().is_none_or(|ends| {
            ends.drain(budget, |event| {
                if missed_checks.may_concern(&event.connect) {
                    event.connect.checks = None;
                }
                each(event);
            })
        })
    }

    /// Accounts for every connection that was followed; `None` if none are.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn ends_account(&mut self) -> Result<Option<EndsAccount>> {
        let mut kernel = self.probes.maps().ends();
        // Read later than all ends, so that each of them is of a connection that is counted here.
        kernel.followed = self.probes.maps().ends().followed;
        let Some(ends) = self.probes.ends() else {
            return Ok(None);
        };
        let mut account = EndsAccount {
            kernel,
            left: self.detached.then(|| ends.in_map()).transpose()?,
            skipped: ends.skipped()?,
            ..EndsAccount::default()
        };
        if let Some(ends) = &self.ends {
            ends.account(&mut account);
        }
        Ok(Some(account))
    }

    /// Drains like [`Records::drain`], but removes the count of candidate checks from a connect() for which a program
    /// may have been skipped.
    fn drain_counted(&mut self, budget: Duration, mut each: impl FnMut(&Connect)) -> bool {
        // Only a reading of the counter after the end of a connect() shows that no run was skipped for it.
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

    /// Returns the number of connect() calls that were passed on.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.records.decoded()
    }

    /// Adds to the time during which the probes were detached.
    pub fn add_detached(&mut self, time: Duration) {
        self.blind += time;
    }

    /// Returns the overhead since the start; `None` if the kernel does not measure it.
    ///
    /// # Errors
    /// If the counts cannot be read.
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

    /// Returns the total run time of all programs, and the CPU time of this process, since the start; `None` if the
    /// kernel does not measure them.
    ///
    /// # Errors
    /// If the counts cannot be read.
    pub fn cpu_times(&self) -> Result<Option<(Duration, Duration)>> {
        let programs = self.probes.runs()?;
        Ok(programs.map(|programs| {
            let run_time = programs.iter().map(|program| program.time).sum();
            (run_time, process_usage::cpu())
        }))
    }

    /// Returns the same as [`cpu_times`](Self::cpu_times), with an estimate of the run time of the programs.
    pub(crate) fn estimated_cpu_times(&self) -> (Duration, Duration) {
        let counters = self.probes.maps().counters();
        (estimate::run_time(&counters), process_usage::cpu())
    }

    /// Detaches the probes. The records in the ring buffer can still be drained.
    ///
    /// # Errors
    /// The same as for [`Probes::detach`].
    pub fn stop(&mut self) -> Result<()> {
        self.probes.detach()?;
        self.detached = true;
        Ok(())
    }

    /// Accounts for every call since the start.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn accounting(&self) -> Result<Accounting> {
        let maps = self.probes.maps();
        let before = maps.counters();
        let in_flight = maps.in_flight()?;
        let after = maps.counters();
        let misses = self.probes.misses()?;
        // Between the two readings calls may have entered, and calls in flight may have returned. Reading the counters
        // of all CPUs takes time too: one more call is within the tolerance.
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

/// Skipped runs of the programs that count candidate checks: the kernel counts them, but not for each connect().
#[derive(Default)]
struct MissedChecks {
    count: u64,
    /// Time at which the last one was noticed, in nanoseconds of `CLOCK_MONOTONIC`; 0 before the first.
    noticed_ns: u64,
}

impl MissedChecks {
    /// Updates the kernel's count.
    fn are(&mut self, count: u64) {
        if count != self.count {
            self.count = count;
            self.noticed_ns = monotonic_ns();
        }
    }

    /// Returns whether a skipped run may belong to a connect() that has not been passed on yet: true if the call began
    /// before the last skipped run was noticed.
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
