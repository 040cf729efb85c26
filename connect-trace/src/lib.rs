//! connect-trace shows why connect() is slow: its latency by the source port that the kernel chose.
//!
//! A record goes one way, and no step knows the steps after it: [`probes`] (the eBPF programs in the kernel, and
//! their ring buffer) → [`trace::tracer`] (reads the records) → [`connect`] (one connection, decoded) → [`stats`]
//! (counts connections in bounded memory) → [`report`] (text and JSON), [`recording`] (a file with every connection)
//! and [`figures`] (a page and charts). [`flame`] joins connections with kernel stacks.
//!
//! The commands are [`trace`], [`serve`] (a trace without an end, with [`metrics`] over HTTP), `top` (a trace on a
//! terminal), [`replay`] (`connect-trace report`), [`check`] (the requirements on this host), [`explain`] (the port search
//! for one destination), [`ports`] (the ports in use, and who holds them),
//! [`load`] (a workload of connections with a strategy), [`compare`] (several strategies), [`supervise`]
//! (`connect-trace try`: a strategy for a program, which stays as it is) and [`mitigate`] (a service that chooses the
//! source of connections). [`cli`] is the command line,
//! `options` has the values of its options, and [`filter`] selects connections. [`kernel`] finds out the features
//! of the running kernel, [`overhead`] measures and limits the cost of a trace, `clock` converts times, and
//! [`term`] prints on stdout and stderr.

// `print!` and its like panic if they cannot write; `say!` and `writeln!` do not.
#![warn(unreachable_pub)]
#![warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)]

pub mod check;
pub mod cli;
mod clock;
pub mod compare;
pub mod connect;
pub mod explain;
pub mod figures;
mod files;
pub mod filter;
#[cfg(test)]
mod fixtures;
pub mod flame;
pub mod kernel;
mod live;
pub mod load;
pub mod metrics;
pub mod mitigate;
mod options;
pub mod overhead;
pub mod ports;
pub mod probes;
pub mod recording;
pub mod replay;
pub mod report;
mod routes;
pub mod rules;
pub mod serve;
pub mod sockets;
pub mod stats;
pub mod supervise;
pub mod term;
#[cfg(feature = "top")]
pub mod top;
pub mod trace;
