//! A table of times, one row for each group.

use std::fmt::{self, Write as _};

use super::{numbers::microseconds_or_dash, paint::Paint};
use crate::aggregate::Latency;

/// Count, mean and percentiles of the groups that have any times. A percentile that is not known is a
/// dash.
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
