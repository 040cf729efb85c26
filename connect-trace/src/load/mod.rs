//! A workload that opens connections by one strategy of choosing source ports, and what each cost as user
//! space saw it.

pub mod attempt;
pub mod log;
