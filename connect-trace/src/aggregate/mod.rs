//! What is kept of the connects: counts, buckets and percentiles, in memory that does not grow with
//! their number.

pub mod by;
pub mod fast;
pub mod group;
pub mod groups;
pub mod key;
pub mod latency;
pub mod summary;

pub use fast::FastConnects;
pub use group::Group;
pub use groups::Groups;
pub use key::Key;
pub use latency::{Latency, Precision};
pub use summary::Summary;
