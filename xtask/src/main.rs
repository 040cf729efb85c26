//! `cargo xtask COMMAND`: what people run on connect-trace's own tree.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
