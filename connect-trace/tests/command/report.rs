//! `connect-trace report`, and what it says of what it cannot read.

use std::process::Output;

use crate::command::{connect_trace, text};

/// Runs it to its end.
pub fn report(arguments: &[&str]) -> Output {
    connect_trace(&[&["report"], arguments].concat())
}

/// What it printed nevertheless, and the one line that it said of a failure.
#[track_caller]
pub fn complaint(arguments: &[&str]) -> (String, String) {
    let output = report(arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("connect-trace: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    (text(&output.stdout), message)
}
