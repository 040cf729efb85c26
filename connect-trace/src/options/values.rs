//! Values of options: times, sizes, percentages and numbers.

use std::time::Duration;

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// Parses a duration from a millisecond to a year, which is longer than any run and far below the maximum of a timer.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    (0.001..=366.0 * DAY)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
        .ok_or_else(|| "must be from 1ms to a year".to_owned())
}

/// Parses the latency of a connect(), from a nanosecond to an hour.
pub(crate) fn latency(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text)?;
    (1e-9..=3_600.0)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
        .ok_or_else(|| "must be from 1ns to an hour".to_owned())
}

/// Parses a time and returns seconds: a number with a unit, or in seconds without one. Too many digits give infinity.
fn seconds(text: &str) -> Result<f64, String> {
    let wrong = || "not a time such as 10, 1.5m, 500ms or 250us".to_owned();
    let split = text.find(|c: char| c.is_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Ok(match unit {
        "ns" => number / 1e9,
        "us" | "\u{b5}s" | "\u{3bc}s" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * DAY,
        _ => return Err(wrong()),
    })
}

/// Parses the size of a ring buffer that the kernel accepts: a power of two, at least a page.
pub(crate) fn ring_buffer(text: &str) -> Result<u32, String> {
    /// The largest page size of all architectures that run BPF: every multiple of it is accepted.
    const SMALLEST: u64 = 64 << 10;
    const LARGEST: u64 = 1 << 30;
    match bytes(text)? {
        bytes if bytes.is_power_of_two() && (SMALLEST..=LARGEST).contains(&bytes) => {
            Ok(bytes as u32)
        }
        _ => Err("must be a power of two from 64K to 1G".to_owned()),
    }
}

/// Parses the size of a file on a disk.
pub(crate) fn file_size(text: &str) -> Result<u64, String> {
    const SMALLEST: u64 = 64 << 10;
    const LARGEST: u64 = 1 << 50;
    Some(bytes(text)?)
        .filter(|bytes| (SMALLEST..=LARGEST).contains(bytes))
        .ok_or_else(|| "must be from 64K to 1024T".to_owned())
}

/// Parses a number of bytes: a whole number, with a unit of 1,024 or its powers. A number that is too large gives the
/// maximum.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'T' | b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size such as 8M".to_owned())?;
    Ok(number.saturating_mul(1 << shift))
}

/// Parses a percentage of one core, with the percent sign.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').map(str::parse);
    let Some(Ok(percent)) = number else {
        return Err("not a percentage such as 1% or 0.5%".to_owned());
    };
    if (0.001..=1_000.0).contains(&percent) {
        Ok(percent)
    } else {
        Err("must be from 0.001% to 1000%, of one core".to_owned())
    }
}

/// Parses a share of ports in whole percent.
pub(crate) fn whole_percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number
        .parse()
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| "must be a whole percentage such as 50%, up to 100%".to_owned())
}

/// Parses the number of groups that a report shows.
pub(crate) fn number_of_groups(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=1_000).contains(number))
        .ok_or_else(|| "must be a number from 1 to 1000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_is_of_seconds() {
        for (text, ns) in [
            ("10", 10_000_000_000),
            ("0.5", 500_000_000),
            (".5", 500_000_000),
            ("10s", 10_000_000_000),
            ("1.5m", 90_000_000_000),
            ("2min", 120_000_000_000),
            ("0.5h", 1_800_000_000_000),
            ("500ms", 500_000_000),
            ("1ms", 1_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(ns)), "{text}");
            assert_eq!(latency(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(latency("1ns"), Ok(Duration::from_nanos(1)));
        assert_eq!(latency("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(latency("2.5\u{b5}s"), Ok(Duration::from_nanos(2_500)));
        assert_eq!(latency("2.5\u{3bc}s"), Ok(Duration::from_nanos(2_500)));
        for wrong in [
            "", "s", "ms", "0", "0ms", "-1", "-1ms", "1 ms", "1S", "1sec", "1e3", "nan", "inf",
            "nanms", "1m30s", "1,5s", "400d", "1e300",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
            assert!(latency(wrong).is_err(), "{wrong}");
        }
        assert!(duration("999us").is_err() && latency("0.5ns").is_err() && latency("2h").is_err());
    }

    #[test]
    fn a_percentage_has_its_sign() {
        assert_eq!(percent("1%"), Ok(1.0));
        assert_eq!(percent("0.5%"), Ok(0.5));
        assert_eq!(percent("0.001%"), Ok(0.001));
        assert_eq!(percent("1000%"), Ok(1_000.0));
        for wrong in [
            "", "%", "1", "1 %", "0%", "-1%", "nan%", "inf%", "1001%", "1%%", "0,5%",
        ] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_has_any_size() {
        assert_eq!(file_size("100M"), Ok(100 << 20));
        assert_eq!(file_size("64K"), Ok(64 << 10));
        assert_eq!(file_size("1t"), Ok(1 << 40));
        for wrong in ["", "63K", "2000T", "99999999999999999999", "1.5G", "1GB"] {
            assert!(file_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ring_buffer_is_a_power_of_two() {
        assert_eq!(ring_buffer("8M"), Ok(8 << 20));
        assert_eq!(ring_buffer("64k"), Ok(64 << 10));
        assert_eq!(ring_buffer("1G"), Ok(1 << 30));
        assert_eq!(ring_buffer("65536"), Ok(65_536));
        for wrong in [
            "",
            "M",
            "3M",
            "32K",
            "2G",
            "-8M",
            "8MB",
            "18446744073709551615G",
            "µ",
        ] {
            assert!(ring_buffer(wrong).is_err(), "{wrong}");
        }
    }
}
