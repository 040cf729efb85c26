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
    // A percent sign stays on the line of its number.
    let words = words.replace(" %", "\u{a0}%");
    for word in words.split(' ') {
        let word = word.replace('\u{a0}', " ");
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

/// Returns a time in the unit that suits it, to three digits.
pub(crate) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        0.0 => return "0".to_owned(),
        ns if ns < 999.5 => (ns, "ns"),
        ns if ns < 999_500.0 => (ns / 1e3, "\u{b5}s"),
        ns if ns < 999_500_000.0 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// Returns a number to three digits, or with all digits before the point if there are more.
fn digits(value: f64) -> String {
    let text = match value {
        value if value >= 99.95 => return format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns a number with up to three decimals, without trailing zeros.
pub(crate) fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns a number with up to one decimal.
pub(crate) fn tenths(value: f64) -> String {
    plain((value * 10.0).round() / 10.0)
}

/// Returns a count with a comma between thousands.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_are_as_people_write_them() {
        let times = [0.0, 20.0, 999.6, 20_640.0, 2_003_300.0, 57.9e9, 1_234e9].map(time);
        let expected = [
            "0",
            "20 ns",
            "1 \u{b5}s",
            "20.6 \u{b5}s",
            "2 ms",
            "57.9 s",
            "1234 s",
        ];
        assert_eq!(times, expected);
        let counts = [0, 999, 1_000, 28_256, 5_000_000].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "28,256", "5,000,000"]);
    }
}
