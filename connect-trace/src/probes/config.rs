//! Settings of the probes.

use super::{attach::AttachMode, mitigation::MitigationConfig};
use crate::{
    connect::{CheckMode, Protocols},
    filter::Filters,
};

/// Default size of the ring buffer in bytes.
pub const RING_BUFFER_BYTES: u32 = 8 << 20;

/// Returns the size of the smallest ring buffer in bytes: a page, which some kernels for arm64 have of 16 or 64 KiB.
#[must_use]
pub fn smallest_ring_buffer_bytes() -> u32 {
    // SAFETY: sysconf has no preconditions.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(bytes).unwrap_or(1 << 16)
}

/// Default limit of calls in flight.
pub const MAX_IN_FLIGHT: u32 = 16_384;

/// Settings of the probes: which programs to attach, and how.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// Attach mode; `None` takes fentry if the kernel offers it and does not skip its programs under preemption, else
    /// kprobe.
    pub attach: Option<AttachMode>,
    /// The protocols to trace.
    pub protocols: Protocols,
    /// How closely `__inet{,6}_check_established` are watched.
    pub checks: CheckMode,
    /// True if the candidate ports in TIME_WAIT are counted.
    pub time_wait: bool,
    /// Filters that select the connect() calls to trace.
    pub filters: Filters,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_buffer_bytes: u32,
    /// Limit of connect() calls that can be in flight at once.
    pub max_in_flight: u32,
    /// True if the kernel is to count and time the runs of the programs, which costs two clock readings per run.
    pub run_stats: bool,
    /// True if less may be traced for a while: see [`Probes::level_switch`](super::Probes::level_switch). Each call
    /// then tests whether it is sampled.
    pub may_sample: bool,
    /// True for a service: failed calls get a record however fast they are, the filters can be changed while the programs
    /// run, the programs stay attached whatever the overhead, and statistics of runs that are refused are done without.
    pub service: bool,
    /// True if the parts of each connect() are measured: [`crate::connect::Phases`].
    pub phases: bool,
    /// Number of kernel stacks that each CPU takes per second of threads inside connect(); `None` for no stacks.
    pub stacks_hertz: Option<u32>,
    /// Maximum number of connections that are followed after their connect() at once; `None` to follow none.
    pub max_connections: Option<u32>,
    /// The mitigation; `None` for none.
    pub mitigation: Option<MitigationConfig>,
}
