//! Makes known connections on loopback and prints one line of truth for each, from user space, so that a test can match
//! the tracer's records with them one to one.

use clap::Parser;
use connect_trace_guest::truth::Truth;

fn main() -> anyhow::Result<()> {
    Truth::parse().run()
}
