//! Statistics of connect() calls: counts, buckets and percentiles, in memory that does not grow with the number of
//! calls.

pub mod accounting;
pub mod below_minimum;
pub mod by;
pub mod candidates;
pub mod distinct;
pub mod exhaustion;
pub mod group;
pub mod groups;
mod histogram;
pub mod key;
pub mod latency;
pub mod port_choices;
pub mod report;
pub mod scanned;
pub mod summary;
pub mod tally;

pub use below_minimum::BelowMinimum;
pub use candidates::Candidates;
pub use exhaustion::Exhaustions;
pub use group::Group;
pub use groups::Groups;
pub use key::{Key, Parity};
pub use latency::{Latency, Precision};
pub use port_choices::PortChoices;
pub use scanned::Scanned;
pub use summary::Summary;
pub use tally::Tally;
