//! Histograms of the buckets, with bars.

use std::fmt::{self, Write as _};

use connect_trace_common::{BUCKETS, buckets::lower_edge_ns};

use crate::stats::Latency;
use crate::term::{numbers::edge, paint::Paint};

/// Width of a bar: two side by side, and a single one.
const PAIR_BAR: usize = 16;
const SINGLE_BAR: usize = 40;

/// Writes the buckets of even and odd ports side by side, with the same scale.
pub(crate) fn pair(
    text: &mut String,
    paint: Paint,
    title: &str,
    [even, odd]: [&Latency; 2],
) -> fmt::Result {
    let both = || even.buckets().iter().zip(odd.buckets());
    let Some(rows) = occupied(both().map(|(even, odd)| even + odd)) else {
        return Ok(());
    };
    let most = both().map(|(even, odd)| *even.max(odd)).max().unwrap_or(0);
    writeln!(text, "\n{}", paint.title(title))?;
    writeln!(
        text,
        "{:^22} {:^28} {:>18}",
        "from <= time < to", "even ports", "odd ports"
    )?;
    for row in rows {
        let [even, odd] = [even, odd].map(|side| {
            let count = side.buckets()[row];
            format!("{count:>9} |{}|", bar(count, most, PAIR_BAR))
        });
        writeln!(text, "{:<22} {even} {odd}", bucket(row))?;
    }
    Ok(())
}

/// Writes the buckets with a single bar.
pub(super) fn single(text: &mut String, buckets: &[u64; BUCKETS]) -> fmt::Result {
    let most = buckets.iter().copied().max().unwrap_or(0);
    for row in occupied(buckets.iter().copied()).into_iter().flatten() {
        let count = buckets[row];
        writeln!(
            text,
            "{:<22} {count:>9} |{}|",
            bucket(row),
            bar(count, most, SINGLE_BAR)
        )?;
    }
    Ok(())
}

/// Returns the range from the first to the last bucket that is not empty.
pub(super) fn occupied(
    buckets: impl Iterator<Item = u64>,
) -> Option<std::ops::RangeInclusive<usize>> {
    let filled: Vec<usize> = buckets
        .enumerate()
        .filter(|&(_, count)| count > 0)
        .map(|(row, _)| row)
        .collect();
    Some(*filled.first()?..=*filled.last()?)
}

/// Returns stars for the share of the widest bar; at least one if the count is not zero.
fn bar(count: u64, most: u64, width: usize) -> String {
    let share = if most == 0 {
        0.0
    } else {
        count as f64 / most as f64
    };
    let stars = ((share * width as f64).round() as usize).max(usize::from(count > 0));
    format!("{:<width$}", "*".repeat(stars))
}

fn bucket(index: usize) -> String {
    let from = edge(lower_edge_ns(index));
    if index == BUCKETS - 1 {
        format!("{from:>9} and more")
    } else {
        format!("{from:>9} .. {:>7}", edge(lower_edge_ns(index + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_least_of_counts_and_nothing_for_none() {
        assert_eq!(bar(0, 1_000_000, 4), "    ");
        assert_eq!(bar(1, 1_000_000, 4), "*   ");
        assert_eq!(bar(1_000_000, 1_000_000, 4), "****");
    }
}
