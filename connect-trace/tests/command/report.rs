//! `connect-trace report`, and its errors for files that it cannot read.

use std::process::Output;

use crate::command::{connect_trace, text};

/// Runs `connect-trace report` until it ends.
pub fn report(arguments: &[&str]) -> Output {
    connect_trace(&[&["report"], arguments].concat())
}

/// Asserts failure, and returns stdout and the one line on stderr.
#[track_caller]
pub fn complaint(arguments: &[&str]) -> (String, String) {
    let output = report(arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("connect-trace: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    (text(&output.stdout), message)
}
