//! The maps and variables that the daemon reads and writes besides the ring buffer.

use std::{
    fs,
    mem::offset_of,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use bytemuck::{Pod, Zeroable};
use connect_trace_common::{
    CheckEstablished, Control, Counters, EndCounters, FastGroup, FastSums, InFlight,
    MitigationCounters,
    counters::{COPIES, PerCpu, TimeWaitCounts},
    record::{IDLE, PLACES},
};

use super::shared::Shared;
use crate::probes::object::{self, externs::Extern, filters::FilterWords};

/// Plain data of `connect-trace-common`, in the form that aya takes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(in crate::probes) T);

// SAFETY: bytemuck's Pod guarantees what aya's Pod requires: any bytes are a value, and there is no padding.
unsafe impl<T: Pod> aya::Pod for Plain<T> {}

/// List of the CPUs that this machine can have, `cpu_possible_mask`: their numbers may have gaps.
const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";

/// The variables that the programs and the daemon share, created before the programs are loaded.
pub(crate) struct Variables {
    per_cpu: Shared<PerCpu>,
    fast: Shared<FastSums>,
    threads: Shared<u64>,
    control: Shared<Control>,
    /// Number of the elements of `per_cpu` that are used.
    cpus: usize,
}

impl Variables {
    /// Creates the variables, all zero. `sums_fast` says that the programs sum up calls below a minimum latency.
    pub(crate) fn new(sums_fast: bool) -> Result<Self> {
        // An unreadable list costs time but no counts: the copies of absent CPUs stay zero.
        let possible = fs::read_to_string(POSSIBLE_CPUS).unwrap_or_default();
        Ok(Self {
            per_cpu: Shared::new("PER_CPU", COPIES)?,
            fast: Shared::new("FAST", if sums_fast { COPIES } else { 1 })?,
            threads: Shared::new("THREADS", PLACES)?,
            control: Shared::new("CONTROL", 1)?,
            cpus: numbers_of_cpus(&possible).map_or(COPIES, |cpus| cpus.min(COPIES)),
        })
    }

    /// Returns the definitions with which the programs are linked.
    pub(crate) fn linked(&self) -> [Extern; 4] {
        [
            self.per_cpu.linked(),
            self.fast.linked(),
            self.threads.linked(),
            self.control.linked(),
        ]
    }
}

/// Returns one more than the highest number in a list of CPUs such as `0-3,8-11`.
fn numbers_of_cpus(list: &str) -> Option<usize> {
    let highest = list.trim().rsplit([',', '-']).next()?;
    highest.parse::<usize>().ok()?.checked_add(1)
}

/// The maps and variables.
pub struct Maps {
    variables: Variables,
    displaced: HashMap<MapData, u64, Plain<InFlight>>,
}

impl Maps {
    /// Takes the maps from an object that was loaded with the variables.
    pub(crate) fn take(ebpf: &mut Ebpf, variables: Variables) -> Result<Self> {
        Ok(Self {
            variables,
            displaced: object::take(ebpf, "IN_FLIGHT")?,
        })
    }

    /// Makes the programs record one call in `sample_every`, a power of two; see [`Control::sample_every`].
    pub(crate) fn set_sample_every(&self, sample_every: u32) {
        self.control(offset_of!(Control, sample_every), sample_every.into());
    }

    /// Tells the programs how many times the programs of `__inet{,6}_check_established` have been attached, 0 while
    /// they are detached; see [`Control::checks_epoch`].
    pub(crate) fn set_checks_epoch(&self, epoch: u64) {
        self.control(offset_of!(Control, checks_epoch), epoch);
    }

    /// Makes the programs of a service use these filters.
    pub(crate) fn set_filters(&self, words: FilterWords) {
        self.control(offset_of!(Control, cgroup_count), words.cgroup_count);
        self.control(offset_of!(Control, min_latency_ns), words.min_latency_ns);
        self.control(offset_of!(Control, filters), words.bits);
    }

    /// Lets calls in, now that all programs are attached.
    pub(crate) fn open(&self) {
        self.control(offset_of!(Control, open), 1);
    }

    /// Lets no more calls in. Those in flight are not concerned.
    pub(crate) fn shut(&self) {
        self.control(offset_of!(Control, open), 0);
    }

    /// Lets no more calls in, and waits until those in flight have returned: a program that is detached earlier would
    /// miss the return. A call that has not returned after two seconds stays in flight.
    ///
    /// # Errors
    /// If the map of the calls cannot be read.
    pub(crate) fn close(&self) -> Result<()> {
        const LONGEST: Duration = Duration::from_secs(2);
        const LOOK_EVERY: Duration = Duration::from_millis(2);
        self.shut();
        let start = Instant::now();
        while self.in_flight()? > 0 && start.elapsed() < LONGEST {
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn control(&self, offset: usize, value: u64) {
        let word = self.variables.control.word(offset);
        word.store(value, Ordering::Release);
    }

    fn per_cpu(&self) -> impl Iterator<Item = PerCpu> {
        self.variables.per_cpu.iter().take(self.variables.cpus)
    }

    /// Returns the counters, summed over all CPUs.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for PerCpu { counters: cpu, .. } in self.per_cpu() {
            sum.entered += cpu.entered;
            sum.reported += cpu.reported;
            sum.ring_full += cpu.ring_full;
            sum.in_flight_full += cpu.in_flight_full;
            sum.return_missed += cpu.return_missed;
            sum.filtered += cpu.filtered;
            sum.search_return_missed += cpu.search_return_missed;
            sum.succeeded += cpu.succeeded;
            sum.fast += cpu.fast;
            sum.not_followed += cpu.not_followed;
            sum.unsampled += cpu.unsampled;
        }
        sum
    }

    /// Returns the counts of `__inet_check_established` and `__inet6_check_established`, summed over all CPUs.
    #[must_use]
    pub fn checks(&self) -> [CheckEstablished; 2] {
        let mut sums = [CheckEstablished::zeroed(); 2];
        for PerCpu { checks, .. } in self.per_cpu() {
            for (sum, cpu) in sums.iter_mut().zip(checks) {
                sum.calls += cpu.calls;
                sum.times.add(&cpu.times.counted());
            }
        }
        sums
    }

    /// Returns the counts of candidate ports in TIME_WAIT, summed over all CPUs.
    #[must_use]
    pub fn time_wait(&self) -> TimeWaitCounts {
        let mut sum = TimeWaitCounts::default();
        for PerCpu { time_wait, .. } in self.per_cpu() {
            sum.add(&time_wait);
        }
        sum
    }

    /// Returns the counts of connections that were followed, summed over all CPUs.
    #[must_use]
    pub fn ends(&self) -> EndCounters {
        let mut sum = EndCounters::default();
        for PerCpu { ends, .. } in self.per_cpu() {
            sum.add(&ends);
        }
        sum
    }

    /// Returns the decisions of a mitigation, summed over all CPUs.
    #[must_use]
    pub fn mitigation(&self) -> MitigationCounters {
        let mut sum = MitigationCounters::default();
        for PerCpu { mitigation, .. } in self.per_cpu() {
            sum.add(&mitigation);
        }
        sum
    }

    /// Returns the connect() calls that were too fast for a record, summed over all CPUs.
    #[must_use]
    pub fn fast(&self) -> FastSums {
        let mut sums = FastSums::zeroed();
        for fast in self.variables.fast.iter().take(self.variables.cpus) {
            sums.add(&fast);
        }
        for FastGroup { connect, search } in &mut sums.0 {
            *connect = connect.counted();
            *search = search.counted();
        }
        sums
    }

    /// Returns the number of threads that have a place of their own for their calls; see `in_flight.rs` of the
    /// programs.
    #[must_use]
    pub fn places(&self) -> usize {
        self.variables
            .threads
            .iter()
            .filter(|&owner| owner != 0)
            .count()
    }

    /// Returns the number of calls in flight.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn in_flight(&self) -> Result<u64> {
        let threads = self.variables.threads.iter();
        let inside = threads.filter(|&thread| thread != 0 && thread & IDLE == 0);
        let mut count = inside.count() as u64;
        for key in self.displaced.keys() {
            key.context("read map IN_FLIGHT")?;
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_with_gaps_in_their_numbers_are_all_read() {
        assert_eq!(numbers_of_cpus("0-3\n"), Some(4));
        assert_eq!(numbers_of_cpus("0-3,8-11\n"), Some(12));
        assert_eq!(numbers_of_cpus("0,2"), Some(3));
        assert_eq!(numbers_of_cpus("0\n"), Some(1));
        assert_eq!(numbers_of_cpus(""), None);
    }
}
