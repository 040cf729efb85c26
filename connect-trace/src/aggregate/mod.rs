//! What is kept of the connects: counts, buckets and percentiles, in memory that does not grow with
//! their number.

pub mod by;
pub mod candidates;
pub mod distinct;
pub mod exhaustion;
pub mod fast;
pub mod group;
pub mod groups;
mod histogram;
pub mod key;
pub mod kinds;
pub mod latency;
pub mod scanned;
pub mod strategies;
pub mod summary;

pub use candidates::Candidates;
pub use exhaustion::Exhaustions;
pub use fast::FastConnects;
pub use group::Group;
pub use groups::Groups;
pub use key::{Key, Parity};
pub use kinds::Kinds;
pub use latency::{Latency, Precision};
pub use scanned::Scanned;
pub use strategies::Strategies;
pub use summary::Summary;
