//! Metrics for a fleet: what is counted of connections since the start, and its exposition in the text formats of
//! Prometheus and OpenMetrics. Counters never go back while the process lives. docs/metrics.md lists the names.

mod exposition;
mod local_ports;
mod mitigation;
#[cfg(feature = "native-histograms")]
mod native;
mod process;
pub mod reading;
pub mod totals;
mod writer;

pub use self::{
    exposition::{Format, exposition},
    reading::Reading,
    totals::Totals,
};
