//! Numbers for people, with units.

use std::fmt::{self, Write as _};

use anstream::adapter::strip_str;

/// Maximum width of a report in columns.
pub(crate) const WIDTH: usize = 80;

/// Returns a power of ten of nanoseconds in the unit that suits it.
pub(crate) fn edge(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

/// Returns microseconds with one decimal if that fits a column of eight characters; up to 99 s fit without decimals.
pub(crate) fn microseconds(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 999_999.95 {
        format!("{us:.1}")
    } else {
        format!("{us:.0}")
    }
}

/// Returns [`microseconds`], or a dash if the time is not known.
pub(crate) fn microseconds_or_dash(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), microseconds)
}

/// Returns a number with its noun.
pub(crate) fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// Writes words, with line breaks before the width of a report. `first` may have colour; lines after the
/// first begin with `indent`.
pub(crate) fn wrapped(text: &mut String, first: &str, indent: &str, words: &str) -> fmt::Result {
    let mut column = strip_str(first).to_string().chars().count();
    write!(text, "{first}")?;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column + 1 + length > WIDTH && column > indent.len() {
            write!(text, "\n{indent}{word}")?;
            column = indent.len() + length;
        } else {
            write!(text, " {word}")?;
            column += 1 + length;
        }
    }
    writeln!(text)
}
