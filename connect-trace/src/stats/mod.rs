//! Statistics of connect() calls: counts, buckets and percentiles, in memory that does not grow with the number of
//! calls.

pub mod accounting;
pub mod arms;
pub(crate) mod below_minimum;
pub mod by;
pub(crate) mod candidates;
pub mod collection;
pub(crate) mod distinct;
pub mod ends;
pub(crate) mod exhaustion;
pub mod filling;
pub mod flow;
pub mod forecast;
pub(crate) mod group;
pub(crate) mod groups;
pub mod held_ports;
mod histogram;
pub mod holders;
pub mod key;
pub(crate) mod latency;
pub mod mitigation;
pub(crate) mod phases;
pub(crate) mod port_choices;
pub mod report;
pub mod route;
pub mod route_ports;
pub(crate) mod scanned;
pub(crate) mod summary;
pub(crate) mod tally;
pub(crate) mod time_wait;

pub use below_minimum::BelowMinimum;
pub use candidates::Candidates;
pub use collection::{Collection, Traced};
pub use ends::{Ends, EndsAccount};
pub use exhaustion::Exhaustions;
pub use group::Group;
pub use groups::Groups;
pub use key::Key;
pub use latency::{Latency, Precision};
pub use phases::{ByCause, PhaseTimes};
pub use port_choices::PortChoices;
pub use route::Route;
pub use scanned::Scanned;
pub use summary::Summary;
pub use tally::Tally;
pub use time_wait::TimeWait;
