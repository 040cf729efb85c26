//! `cargo xtask COMMAND`: tasks that people run on connect-trace's own tree.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
