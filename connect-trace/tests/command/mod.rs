//! Runs the command as a user does, and reads its output.

use std::process::{Command, Output};

/// Returns the command, with its default verbosity.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connect-trace"));
    command.env_remove("RUST_LOG");
    command
}

/// Runs the command until it ends.
pub fn connect_trace(arguments: &[&str]) -> Output {
    let mut command = command();
    let output = command.args(arguments).output();
    output.expect("the command was built with this test")
}

/// Returns printed bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("everything that is printed is text")
}
