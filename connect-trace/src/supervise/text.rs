//! What a supervisor has done, as text.

use std::fmt::Write as _;

use super::{
    counts::{Counted, LeftAlone},
    strategy::Strategy,
};
use crate::term::numbers::{count, counted as with_noun, microseconds, wrapped};

/// Returns the counts of a run, in lines of at most 80 columns.
pub(super) fn counted(strategy: Strategy, counted: &Counted) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = wrapped(
        &mut text,
        &format!("{strategy}:"),
        "  ",
        &words(counted).join(", "),
    );
    for note in notes(counted) {
        let _ = wrapped(&mut text, "note:", "  ", &note);
    }
    text
}

fn words(counted: &Counted) -> Vec<String> {
    let mut words = vec![format!("{} connect() calls set", count(counted.set))];
    if counted.set == 1 {
        words[0] = "1 connect() call set".to_owned();
    }
    if counted.retries > 0 {
        words.push(with_noun(counted.retries, "retry", "retries"));
    }
    if counted.failed > 0 {
        words.push(format!("{} failed", count(counted.failed)));
    }
    let mut left = format!("{} left alone", count(counted.left_alone()));
    let of_each: Vec<String> = LeftAlone::TOLD
        .iter()
        .zip(&counted.left)
        .filter(|(_, (_, number))| *number > 0)
        .map(|((.., words), (_, number))| format!("{} {words}", count(*number)))
        .collect();
    if !of_each.is_empty() {
        let _ = write!(left, " ({})", of_each.join(", "));
    }
    words.push(left);
    if let Some(mean) = counted.mean_ns() {
        words.push(format!(
            "{} us a call in the supervisor, {} us at most",
            microseconds(mean),
            microseconds(counted.longest_ns as f64)
        ));
    }
    words
}

/// Returns the warnings about connections that a supervisor does not see.
pub(super) fn notes(counted: &Counted) -> Vec<String> {
    let mut notes = Vec::new();
    if counted.io_urings > 0 {
        notes.push(format!(
            "the command has set up {}: connections that it makes by io_uring are not seen by seccomp, and are as \
             without connect-trace",
            with_noun(counted.io_urings, "io_uring", "io_urings")
        ));
    }
    if counted.filtered > 0 {
        notes.push(format!(
            "{} of the command with seccomp filters of their own: what these forbid stays forbidden and is not seen",
            with_noun(counted.filtered, "process", "processes")
        ));
    }
    notes
}
