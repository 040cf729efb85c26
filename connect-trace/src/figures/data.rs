//! The points in the form that the page's script reads: JSON, with the numbers of all points as bytes in base64.

use serde_json::{Value, json};

use super::{
    charts::axis::Span,
    dataset::{Dataset, Detail},
    point::KINDS,
};
use crate::term::errno;

/// Returns the data of a page.
pub(super) fn json(sets: &[Dataset], span: Span) -> String {
    let sets: Vec<Value> = sets.iter().map(of_set).collect();
    let kinds: Vec<_> = KINDS
        .iter()
        .map(|kind| json!({"name": kind.name(), "class": kind.class()}))
        .collect();
    let all = json!({"kinds": kinds, "sets": sets, "low": span.low, "high": span.high});
    super::escape::json(&all.to_string())
}

/// Time, latency, port and detail of each point, 12 bytes; and the numbers if some points are left out.
fn of_set(set: &Dataset) -> Value {
    let points = &set.points;
    let longest_ns = points.last().map_or(0, |point| point.at_ns).max(1);
    let unit_ns = longest_ns as f64 / f64::from(u32::MAX);
    let times = points
        .iter()
        .flat_map(|point| ((point.at_ns as f64 / unit_ns) as u32).to_le_bytes());
    let latencies = points
        .iter()
        .flat_map(|point| (point.latency_ns as f32).to_le_bytes());
    let ports = points.iter().flat_map(|point| point.port.to_le_bytes());
    let details = points.iter().flat_map(|point| point.detail.to_le_bytes());
    let in_order = points
        .iter()
        .zip(0..)
        .all(|(point, number)| point.number == number);
    let numbers = points.iter().flat_map(|point| point.number.to_le_bytes());
    json!({
        "name": set.name,
        "counts": KINDS.map(|kind| set.count_of(kind)),
        "fast": set.fast,
        "lines": set.lines(),
        "unit": unit_ns / 1e9,
        "times": base64(times),
        "latencies": base64(latencies),
        "ports": base64(ports),
        "of": base64(details),
        "numbers": (!in_order).then(|| base64(numbers)),
        "details": set.details.iter().map(of_detail).collect::<Vec<_>>(),
    })
}

/// Returns a detail as a list, which is short: there can be many.
fn of_detail(detail: &Detail) -> Value {
    json!([
        detail.kind.index(),
        if detail.errno == 0 {
            String::new()
        } else {
            errno::name(detail.errno)
        },
        detail.source.map(|source| source.to_string()),
        detail.comm.map(|comm| comm.to_string()),
    ])
}

/// Encodes bytes in base64 (RFC 4648).
fn base64(bytes: impl Iterator<Item = u8>) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    let mut bytes = bytes.peekable();
    while bytes.peek().is_some() {
        let three = [bytes.next(), bytes.next(), bytes.next()];
        let [a, b, c] = three.map(|byte| u32::from(byte.unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            // The third digit needs the second byte, and the fourth digit the third byte.
            let there = place < 2 || three[place - 1].is_some();
            let digit = DIGITS[(bits >> shift & 63) as usize];
            text.push(if there { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{HOSTILE, set_of};

    #[test]
    fn base64_is_that_of_the_rfc() {
        let of = |text: &str| base64(text.bytes());
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(of);
        let expected = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn data_is_json_that_no_name_gets_out_of() {
        let set = set_of(HOSTILE, 300);
        let text = json(
            &[set],
            Span {
                low: 3.0,
                high: 7.0,
            },
        );
        assert!(!text.contains(['<', '>', '&']), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["sets"][0]["name"], HOSTILE);
        assert_eq!(
            value["sets"][0]["times"].as_str().unwrap().len(),
            300 * 4 * 4 / 3
        );
        assert!(value["sets"][0]["numbers"].is_null());
    }
}
