//! What to attach, and how.

use super::attach::AttachMode;
use crate::{connect::CheckMode, filter::Filters};

/// Size of the ring buffer where nothing else is asked for, in bytes.
pub const RING_BUFFER_BYTES: u32 = 8 << 20;

/// Most calls in flight where nothing else is asked for.
pub const MAX_IN_FLIGHT: u32 = 16_384;

/// What to attach, and how.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The way to attach; `None` takes fentry where the kernel offers it and does not skip its programs
    /// under preemption, else kprobe.
    pub attach: Option<AttachMode>,
    /// What is paid for watching `__inet{,6}_check_established`.
    pub checks: CheckMode,
    /// Which connects are wanted.
    pub filters: Filters,
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_buffer_bytes: u32,
    /// Most calls of connect() that can be in flight at once.
    pub max_in_flight: u32,
    /// Whether the kernel counts and times the runs of the programs, which costs two readings of the clock
    /// for each.
    pub run_stats: bool,
    /// Whether less may be traced for a while: see [`Probes::steps`]. Then each call asks whether it is
    /// sampled.
    pub may_sample: bool,
}
