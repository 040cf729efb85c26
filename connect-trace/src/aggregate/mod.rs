//! What is kept of the connects: counts, buckets and percentiles, in memory that does not grow with
//! their number.

pub mod by;
pub mod latency;
pub mod summary;

pub use latency::Latency;
pub use summary::{Group, Summary};
