//! The maps and variables that the daemon reads and writes besides the ring buffer.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
    util::nr_cpus,
};
use bytemuck::{Pod, Zeroable};
use connect_trace_common::{
    CheckEstablished, Control, Counters, FastGroup, InFlight, Times,
    counters::{COPIES, PerCpu},
    record::{INSIDE, PLACES},
};

use super::{externs::Extern, object, shared::Shared};

/// Plain data of `connect-trace-common`, as aya takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: bytemuck's Pod promises all that aya's does: any bytes are a value, and no padding.
unsafe impl<T: Pod> aya::Pod for Plain<T> {}

/// The variables that the programs write, to be made before these are loaded.
pub(super) struct Variables {
    per_cpu: Shared<PerCpu>,
    threads: Shared<u64>,
    /// Number of the elements of `per_cpu` that are used.
    cpus: usize,
}

impl Variables {
    /// All zero.
    pub(super) fn new() -> Result<Self> {
        let cpus =
            nr_cpus().map_err(|(file, error)| anyhow!(error).context(format!("read {file}")))?;
        Ok(Self {
            per_cpu: Shared::new("PER_CPU", COPIES)?,
            threads: Shared::new("THREADS", PLACES)?,
            cpus: cpus.min(COPIES),
        })
    }

    /// What the programs are linked with.
    pub(super) fn linked(&self) -> [Extern; 2] {
        [self.per_cpu.linked(), self.threads.linked()]
    }
}

/// The maps and variables.
pub struct Maps {
    variables: Variables,
    displaced: HashMap<MapData, u64, Plain<InFlight>>,
    control: Mutex<Array<MapData, Plain<Control>>>,
}

impl Maps {
    /// Takes the maps out of an object that was loaded with the variables.
    pub(super) fn take(ebpf: &mut Ebpf, variables: Variables) -> Result<Self> {
        Ok(Self {
            variables,
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

    fn per_cpu(&self) -> impl Iterator<Item = PerCpu> {
        self.variables.per_cpu.iter().take(self.variables.cpus)
    }

    /// The counters of all CPUs together.
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

    /// `__inet_check_established` and `__inet6_check_established`, all CPUs together.
    #[must_use]
    pub fn checks(&self) -> [CheckEstablished; 2] {
        let mut sums = [CheckEstablished::zeroed(); 2];
        for PerCpu { checks, .. } in self.per_cpu() {
            for (sum, cpu) in sums.iter_mut().zip(checks) {
                sum.calls += cpu.calls;
                sum.timed += cpu.timed;
                sum.total_ns += cpu.total_ns;
                sum.max_ns = sum.max_ns.max(cpu.max_ns);
                for (bucket, more) in sum.buckets.iter_mut().zip(cpu.buckets) {
                    *bucket += more;
                }
            }
        }
        sums
    }

    /// The connects that were too fast for a record, all CPUs together, in the order of the constants of
    /// [`FastGroup`].
    #[must_use]
    pub fn fast(&self) -> [FastGroup; FastGroup::GROUPS as usize] {
        let mut sums = [FastGroup::zeroed(); FastGroup::GROUPS as usize];
        for PerCpu { fast, .. } in self.per_cpu() {
            for (sum, cpu) in sums.iter_mut().zip(fast) {
                add_times(&mut sum.connect, &cpu.connect);
                add_times(&mut sum.search, &cpu.search);
            }
        }
        sums
    }

    /// Number of calls in flight.
    ///
    /// # Errors
    /// Where the map cannot be read.
    pub fn in_flight(&self) -> Result<u64> {
        let threads = self.variables.threads.iter();
        let inside = threads.filter(|thread| thread & INSIDE != 0);
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
