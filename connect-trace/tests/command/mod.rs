//! Runs the command as a user does, and reads what it says.

use std::process::{Command, Output};

/// The command, which says no more than it does by default.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connect-trace"));
    command.env_remove("RUST_LOG");
    command
}

/// Runs it to its end.
pub fn connect_trace(arguments: &[&str]) -> Output {
    let mut command = command();
    let output = command.args(arguments).output();
    output.expect("the command was built with this test")
}

/// What was printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("everything that is printed is text")
}
