//! `cargo xtask COMMAND`: tasks for developers of connect-trace.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
