//! Tables of times and of scanned ports, one row for each group.

use std::fmt::{self, Write as _};

use crate::stats::{Group, Latency};
use crate::term::{numbers::microseconds_or_dash, paint::Paint};

/// Writes count, mean and percentiles of the groups that have any times. A percentile that is not known is a dash.
pub(crate) fn rows<G>(
    text: &mut String,
    paint: Paint,
    title: &str,
    groups: &[(String, &G)],
    of: fn(&G) -> &Latency,
) -> fmt::Result {
    let mut titled = false;
    for (name, group) in groups {
        let latency = of(group);
        let (Some(mean), Some(max)) = (latency.mean_ns(), latency.max_ns()) else {
            continue;
        };
        if !std::mem::replace(&mut titled, true) {
            let columns = ["mean", "p50", "p90", "p99", "p99.9", "max"];
            write!(
                text,
                "\n{}{:>9}",
                paint.title(&format!("{title:<16}")),
                "count"
            )?;
            columns
                .iter()
                .try_for_each(|column| write!(text, " {column:>8}"))?;
            text.push('\n');
        }
        write!(text, "  {name:<14}{:>9}", latency.count())?;
        let quantiles = [0.5, 0.9, 0.99, 0.999];
        let quantiles = quantiles.map(|share| latency.quantile_ns(share).map(|ns| ns as f64));
        for ns in [Some(mean)]
            .into_iter()
            .chain(quantiles)
            .chain([Some(max as f64)])
        {
            write!(text, " {:>8}", microseconds_or_dash(ns))?;
        }
        text.push('\n');
    }
    Ok(())
}

/// Writes the number of ports that the searches of each group scanned, for the groups that have this figure.
pub(super) fn scanned(
    text: &mut String,
    paint: Paint,
    groups: &[(String, &Group)],
    width: usize,
) -> fmt::Result {
    let mut titled = false;
    for (name, group) in groups {
        let scanned = &group.scanned;
        if scanned.count == 0 {
            continue;
        }
        if !std::mem::replace(&mut titled, true) {
            let title = paint.title(&format!("{:<1$}", "ports scanned", width + 2));
            writeln!(text, "\n{title}{:>9} {:>8} {:>8}", "count", "mean", "max")?;
        }
        let mean = ports_or_dash(scanned.mean(), 1);
        writeln!(
            text,
            "  {name:<width$}{:>9} {mean:>8} {:>8}",
            scanned.count, scanned.max
        )?;
    }
    Ok(())
}

/// Returns a number of ports, or a dash if it is not known.
pub(super) fn ports_or_dash(ports: Option<f64>, decimals: usize) -> String {
    ports.map_or_else(|| "-".to_owned(), |ports| format!("{ports:.decimals$}"))
}
