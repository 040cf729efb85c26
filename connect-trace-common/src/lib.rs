//! Data that the eBPF programs and the daemon share: the layout of a record, of the counters and of the control words,
//! the constants of the programs and the power-of-ten buckets. Plain data, `no_std`, no pointers.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`); ports are in host order.

#![no_std]

pub mod buckets;
pub mod counters;
pub mod end;
pub mod field;
pub mod filter;
pub mod mitigation;
pub mod params;
pub mod phases;
pub mod record;
pub mod slot;
pub mod stacks;

pub use buckets::{BUCKETS, power_of_ten};
pub use counters::{CheckEstablished, Control, Counters, FastGroup, FastKind, FastSums, Times};
pub use end::{EndCounters, EndRecord};
pub use field::Field;
pub use filter::FilterBits;
pub use mitigation::{MitigationCounters, RouteCounts, RouteKey, RouteState};
pub use params::Params;
pub use phases::{PhasedRecord, Phases, PhasesInFlight};
pub use record::{ConnectRecord, Flags, InFlight};
pub use slot::Look;
pub use stacks::{SampleKind, StackCounts, StackSample};
