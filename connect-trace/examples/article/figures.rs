//! The figures of a run, and the article's figures.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Results of a run; the article gives only some of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Name of the strategy in `connect-trace load`, after the protocol if that is not TCP.
    pub(super) name: String,
    /// Mean time of a connection with an even port, including the strategy's work before connect().
    pub(super) even_ms: Option<f64>,
    /// Mean time of a connection with an odd port, measured in the same way.
    pub(super) odd_ms: Option<f64>,
    pub(super) errors: Option<u64>,
    pub(super) total_s: Option<f64>,
    pub(super) per_second: Option<f64>,
    /// Connections before the first odd port.
    pub(super) first_odd: Option<u64>,
    pub(super) even_count: u64,
    pub(super) odd_count: u64,
    /// Ports tried per connection.
    pub(super) tries: f64,
}

/// Figures of the article: even ms, odd ms, errors, total s, connections a second.
type Told = (
    Option<f64>,
    Option<f64>,
    Option<u64>,
    Option<f64>,
    Option<f64>,
);

/// The article's figures, from one machine: the same ports, one source address, one destination.
pub(super) const ARTICLE: [(&str, Told); 7] = [
    ("default", (Some(0.025), Some(4.59), None, None, None)),
    (
        "full-range",
        (Some(0.029), Some(0.029), Some(0), None, None),
    ),
    (
        "window-500",
        (
            Some(0.030),
            Some(0.031),
            Some(868),
            Some(1.8),
            Some(30_139.0),
        ),
    ),
    (
        "window-1000",
        (None, None, Some(1_129), Some(2.0), Some(27_260.0)),
    ),
    (
        "window-5000",
        (None, None, Some(4_037), Some(6.7), Some(8_405.0)),
    ),
    (
        "window-10000",
        (None, None, Some(6_695), Some(17.7), Some(3_183.0)),
    ),
    (
        "udp default",
        (Some(0.001), Some(0.001), Some(0), None, None),
    ),
];

impl From<Told> for Figures {
    fn from((even_ms, odd_ms, errors, total_s, per_second): Told) -> Self {
        Self {
            even_ms,
            odd_ms,
            errors,
            total_s,
            per_second,
            ..Self::default()
        }
    }
}

impl Figures {
    /// Reads a run from the output of `connect-trace load --format json`.
    pub(super) fn of(run: &Value) -> Result<Self> {
        let text = |name: &str| {
            run[name]
                .as_str()
                .with_context(|| format!("a run has no {name}: {run}"))
        };
        let number = |name: &str| {
            run[name]
                .as_u64()
                .with_context(|| format!("a run has no {name}: {run}"))
        };
        let mean_ms = |group: &str| run[group]["whole"]["mean_ns"].as_f64().map(|ns| ns / 1e6);
        let count = |group: &str| run[group]["whole"]["count"].as_u64().unwrap_or(0);
        let name = match text("protocol")? {
            "tcp" => text("strategy")?.to_owned(),
            protocol => format!("{protocol} {}", text("strategy")?),
        };
        let attempts = number("attempts")?.max(1);
        Ok(Self {
            name,
            even_ms: mean_ms("even"),
            odd_ms: mean_ms("odd"),
            errors: Some(number("errors")?),
            total_s: Some(number("total_ns")? as f64 / 1e9),
            per_second: run["connections_per_second"].as_f64(),
            first_odd: run["first_pass_connections"].as_u64(),
            even_count: count("even"),
            odd_count: count("odd"),
            tries: number("tries")? as f64 / attempts as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_from_its_json() {
        let run = serde_json::json!({
            "strategy": "default", "protocol": "udp", "attempts": 4, "errors": 1, "tries": 8,
            "total_ns": 2_000_000_000_u64, "connections_per_second": 1.5, "first_pass_connections": 2,
            "even": {"whole": {"mean_ns": 21_000.0, "count": 3}},
            "odd": {"whole": {"mean_ns": null, "count": 0}},
        });
        let figures = Figures::of(&run).unwrap();
        assert_eq!(figures.name, "udp default");
        assert_eq!((figures.even_ms, figures.odd_ms), (Some(0.021), None));
        assert_eq!((figures.errors, figures.tries), (Some(1), 2.0));
        assert!(Figures::of(&serde_json::json!({})).is_err());
    }
}
