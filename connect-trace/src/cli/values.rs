//! Numbers with units, as they are typed.

use std::time::Duration;

/// Seconds, decimals allowed.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    /// A year: longer than any run, and far from what a timer cannot take.
    const LONGEST: f64 = 366.0 * 86_400.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    if (0.001..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be from 0.001 to a year".to_owned())
    }
}

/// A size that the kernel takes for a ring buffer: a power of two of at least a page.
pub(super) fn ring_buffer(text: &str) -> Result<u32, String> {
    /// The largest page of any architecture that runs BPF, so that any size from it on will do.
    const SMALLEST: u64 = 64 << 10;
    const LARGEST: u64 = 1 << 30;
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a size such as 8M".to_owned())?;
    let bytes = number
        .checked_mul(1 << shift)
        .filter(|bytes| bytes.is_power_of_two());
    match bytes {
        Some(bytes) if (SMALLEST..=LARGEST).contains(&bytes) => Ok(bytes as u32),
        _ => Err("must be a power of two from 64K to 1G".to_owned()),
    }
}

/// A time with its unit: ns, us, ms or s.
pub(super) fn latency(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic() || c == 'µ');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let ns_per_unit = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err("not a time such as 1ms, 250us or 0.5s".to_owned()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "not a time such as 1ms, 250us or 0.5s".to_owned())?;
    let ns = number * ns_per_unit;
    if (1.0..=3.6e12).contains(&ns) {
        Ok(Duration::from_nanos(ns as u64))
    } else {
        Err("must be from 1ns to an hour".to_owned())
    }
}

/// Percent of one core, with their sign.
pub(super) fn percent(text: &str) -> Result<f64, String> {
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

/// So many groups as a report can show.
pub(super) fn number_of_groups(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=1_000).contains(number))
        .ok_or_else(|| "must be a number from 1 to 1000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_has_a_unit() {
        assert_eq!(latency("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(latency("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(latency("2.5µs"), Ok(Duration::from_nanos(2_500)));
        assert_eq!(latency("0.5s"), Ok(Duration::from_millis(500)));
        for wrong in [
            "", "1", "ms", "0ms", "-1ms", "1 ms", "1h", "2000000s", "nanms",
        ] {
            assert!(latency(wrong).is_err(), "{wrong}");
        }
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

    #[test]
    fn a_time_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e300", "1s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
