//! Connections whose truth is known: cases that make them with real sockets on loopback, and the [`Record`] of each
//! connect() call, which tests parse again.
//!
//! Nothing is printed while a case runs, because printing would disturb the measurement.

mod all;
mod cases;
mod command;
mod crowd;
mod dies;
mod exhaust;
mod hold;
mod io_uring;
mod lifetime;
mod limit;
mod listener;
mod mptcp;
mod namespace;
mod range;
mod rate;
mod record;
mod socket;
mod steady;
mod turns;
mod udp;
mod ways;
mod witness;

pub use command::Truth;
pub use record::{Explicit, Family, Outcome, Record};
pub use udp::{Port, UdpRecord};
