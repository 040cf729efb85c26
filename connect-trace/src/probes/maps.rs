//! The maps that the daemon reads and writes besides the ring buffer.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use bytemuck::{Pod, Zeroable};
use connect_trace_common::{
    CheckEstablished, Control, Counters, FastGroup, InFlight, Times,
    counters::{COPIES, CpuCounters},
    record::{INSIDE, PLACES},
};

use super::{object, variable::Variable};

/// Plain data of `connect-trace-common`, as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: bytemuck's Pod promises all that aya's does: any bytes are a value, and no padding.
unsafe impl<T: Pod> aya::Pod for Plain<T> {}

/// The maps.
pub struct Maps {
    counters: Variable,
    checks: PerCpuArray<MapData, Plain<CheckEstablished>>,
    fast: PerCpuArray<MapData, Plain<FastGroup>>,
    threads: Variable,
    displaced: HashMap<MapData, u64, Plain<InFlight>>,
    control: Mutex<Array<MapData, Plain<Control>>>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            counters: Variable::take(ebpf, ".bss.counters", size_of::<[CpuCounters; COPIES]>())?,
            checks: object::take(ebpf, "CHECKS")?,
            fast: object::take(ebpf, "FAST")?,
            threads: Variable::take(ebpf, ".bss.threads", size_of::<[u64; PLACES]>())?,
            displaced: object::take(ebpf, "IN_FLIGHT")?,
            control: Mutex::new(object::take(ebpf, "CONTROL")?),
        })
    }

    /// Tells the programs to make records of one call in so many, a power of two; see
    /// [`Control::sample_every`].
    pub(super) fn set_sample_every(&self, sample_every: u32) -> Result<()> {
        let mut map = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(0, Plain(Control { sample_every }), 0)
            .context("write map CONTROL")
    }

    /// The counters of all CPUs together.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::ZERO;
        for CpuCounters { counters: cpu, .. } in &self.counters.read()? {
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
        Ok(sum)
    }

    /// `__inet_check_established` and `__inet6_check_established`, all CPUs together.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn checks(&self) -> Result<[CheckEstablished; 2]> {
        let mut sums = [CheckEstablished::zeroed(); 2];
        for (slot, sum) in (0..).zip(&mut sums) {
            for Plain(cpu) in self.checks.get(&slot, 0).context("read map CHECKS")?.iter() {
                sum.calls += cpu.calls;
                sum.timed += cpu.timed;
                sum.total_ns += cpu.total_ns;
                sum.max_ns = sum.max_ns.max(cpu.max_ns);
                for (bucket, more) in sum.buckets.iter_mut().zip(cpu.buckets) {
                    *bucket += more;
                }
            }
        }
        Ok(sums)
    }

    /// The connects that were too fast for a record, all CPUs together, in the order of the constants of
    /// [`FastGroup`].
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn fast(&self) -> Result<[FastGroup; FastGroup::GROUPS as usize]> {
        let mut sums = [FastGroup::zeroed(); FastGroup::GROUPS as usize];
        for (slot, sum) in (0..).zip(&mut sums) {
            for Plain(cpu) in self.fast.get(&slot, 0).context("read map FAST")?.iter() {
                add_times(&mut sum.connect, &cpu.connect);
                add_times(&mut sum.search, &cpu.search);
            }
        }
        Ok(sums)
    }

    /// Number of calls in flight.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn in_flight(&self) -> Result<u64> {
        let threads: Vec<u64> = self.threads.read()?;
        let inside = threads.iter().filter(|&thread| thread & INSIDE != 0);
        let mut count = inside.count() as u64;
        for key in self.displaced.keys() {
            key.context("read map IN_FLIGHT")?;
            count += 1;
        }
        Ok(count)
    }
}

fn add_times(sum: &mut Times, more: &Times) {
    sum.count += more.count;
    sum.total_ns += more.total_ns;
    sum.max_ns = sum.max_ns.max(more.max_ns);
    for (bucket, more) in sum.buckets.iter_mut().zip(more.buckets) {
        *bucket += more;
    }
}
