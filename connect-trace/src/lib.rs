//! connect-trace shows why connect() is slow: its latency by the source port that the kernel chose.
//!
//! Data goes one way: [`probes`] (the eBPF programs in the kernel) → their ring buffer →
//! [`event`] (a record, decoded) → [`aggregate`] (bounded memory) → [`report`] (text). [`tracer`]
//! is these together and [`daemon`] runs it, [`kernel`] is what the running kernel shows, [`accounting`]
//! is where every call is accounted for, [`overhead`] what it all costs and [`budget`] how that is limited; [`recording`] is the connects in a file, and [`replay`] their
//! reports from there, [`page`] their figures. [`load`] makes connections by a strategy, and [`compare`]
//! compares strategies. The command line is [`cli`], checked into a [`config`]; [`check`] says what a trace
//! would find here. [`term`] is stdout and the messages on stderr.

// These panic where they cannot write: `say!` and `writeln!` do not.
#![warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)]

pub mod check;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod connect;
pub mod figures;
mod files;
pub mod filter;
#[cfg(test)]
mod fixtures;
pub mod kernel;
pub mod load;
pub mod options;
pub mod overhead;
pub mod probes;
pub mod recording;
pub mod replay;
pub mod report;
pub mod stats;
pub mod term;
pub mod trace;
