//! Samples of kernel stacks of threads inside connect(), which the programs of a flame graph write into a ring buffer of
//! their own.

use core::mem::offset_of;

use bytemuck::{Pod, Zeroable};

/// The reason for a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct SampleKind(pub u64);

impl SampleKind {
    /// The CPU clock interrupted the thread.
    pub const RUNNING: Self = Self(0);
    /// The thread gave up its CPU although it could have gone on: it was preempted, or yielded.
    pub const PREEMPTED: Self = Self(1);
    /// The thread gave up its CPU to wait.
    pub const BLOCKED: Self = Self(2);
    /// The thread got a CPU again; such a sample has no frames.
    pub const RESUMED: Self = Self(3);
}

/// Maximum number of frames of a sample, the kernel's own default (`kernel.perf_event_max_stack`).
pub const MOST_FRAMES: usize = 127;

/// The fields of a sample before its frames.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Process (thread-group) id of the thread in the upper half, thread id in the lower.
    pub pid_tgid: u64,
    /// Time at which its connect() was entered, as in the record of the call.
    pub call_ns: u64,
    /// Time of the sample.
    pub at_ns: u64,
    /// Time since the last tick of the CPU's clock, for which a sample of [`SampleKind::RUNNING`] stands; 0 if this was
    /// the first tick. Mostly the period, and more if interrupts were disabled, or a hypervisor ran something else.
    pub elapsed_ns: u64,
    /// The reason for the sample.
    pub kind: SampleKind,
    /// [`crate::Flags`] of the call's record so far, which say which functions the call is in, and
    /// [`StackSample::IN_V6`].
    pub flags: u64,
}

/// One sample. The ring buffer has its beginning only, up to the last frame.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct StackSample {
    /// The fields before the frames.
    pub header: Header,
    /// Addresses, the innermost function first; one more than [`MOST_FRAMES`], so that a mask bounds the length.
    pub frames: [u64; MOST_FRAMES + 1],
}

impl StackSample {
    /// Bit of `flags`: the call is one of `tcp_v6_connect`.
    pub const IN_V6: u64 = 1 << 16;
    /// Number of bytes before the frames.
    pub const HEADER: usize = offset_of!(Self, frames);
    /// Maximum number of bytes of the frames.
    pub const MOST_BYTES: usize = MOST_FRAMES * size_of::<u64>();
    /// Mask of the bits that a number of bytes up to [`Self::MOST_BYTES`] can have.
    pub const MASK: usize = (MOST_FRAMES + 1) * size_of::<u64>() - 1;
}

const _: () = assert!((StackSample::MASK + 1).is_power_of_two());

/// Account of the samples, counted in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct StackCounts {
    /// Samples of threads inside connect().
    pub taken: u64,
    /// Samples that found the ring buffer full.
    pub ring_full: u64,
}
