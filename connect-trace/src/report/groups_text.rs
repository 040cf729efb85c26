//! The groups of `--by` as text: a table for connect(), one for the port search, and the buckets.

use std::fmt::{self, Write as _};

use connect_trace_common::buckets::lower_edge_ns;

use super::{histogram, names, table::scanned};
use crate::stats::report::Report;
use crate::stats::{Group, Latency, groups::Top};
use crate::term::{
    numbers::{WIDTH, counted, edge, microseconds_or_dash, wrapped},
    paint::Paint,
};

/// Width of the column of keys; a longer key has its own line.
const KEY: usize = 20;

/// One row: name and times.
struct Row<'a> {
    name: String,
    group: &'a Group,
}

pub(super) fn write(text: &mut String, paint: Paint, report: &Report) -> fmt::Result {
    let rows = rows(&report.top);
    writeln!(
        text,
        "by {}, the most time in connect() first",
        names::by(report.by)
    )?;
    if let Some(fast) = &report.top.fast {
        let fast = counted(fast.connect.count(), "is", "are");
        let by = names::by(report.by);
        let words = format!(
            "{fast} one row for every {by}; the groups have only connect() calls that took at least this time"
        );
        wrapped(text, "below --min-latency:", "  ", &words)?;
    }
    table(text, paint, "connect(), us", &rows, |g| &g.connect)?;
    table(text, paint, "port search, us", &rows, |g| &g.search)?;
    let named: Vec<_> = rows
        .iter()
        .map(|row| (row.name.clone(), row.group))
        .collect();
    let longest = named.iter().map(|(name, _)| name.chars().count()).max();
    scanned(text, paint, &named, longest.unwrap_or(0).max(KEY - 2))?;
    buckets(text, paint, "connect()", &rows, |g| &g.connect)?;
    buckets(text, paint, "port search", &rows, |g| &g.search)
}

/// Returns the rows: the groups that are shown, the rest as one, and the calls of which only sums are known.
fn rows(top: &Top) -> Vec<Row<'_>> {
    let shown = top.groups.iter().map(|named| {
        let key = names::key(named.key);
        Row {
            name: match named.comm {
                Some(comm) => format!("{key} {comm}"),
                None => key,
            },
            group: &named.group,
        }
    });
    let rest = top.rest.iter().map(|rest| Row {
        name: {
            let plus = if rest.groups.or_more { "+" } else { "" };
            format!("rest: {}{plus} more", rest.groups.count)
        },
        group: &rest.group,
    });
    let fast = top.fast.iter().map(|group| Row {
        name: "below --min-latency".to_owned(),
        group,
    });
    shown.chain(rest).chain(fast).collect()
}

/// Writes count, share of the total time, mean and percentiles.
fn table(
    text: &mut String,
    paint: Paint,
    title: &str,
    rows: &[Row<'_>],
    of: fn(&Group) -> &Latency,
) -> fmt::Result {
    let total: u128 = rows.iter().map(|row| of(row.group).total_ns()).sum();
    let mut titled = false;
    for Row { name, group } in rows {
        let latency = of(group);
        if latency.count() == 0 {
            continue;
        }
        if !std::mem::replace(&mut titled, true) {
            let title = paint.title(&format!("{title:<24}"));
            write!(text, "\n{title} {:>5} time", "count")?;
            for column in ["mean", "p50", "p90", "p99", "max"] {
                write!(text, " {column:>8}")?;
            }
            text.push('\n');
        }
        let share = match total {
            0 => "-".to_owned(),
            total => format!("{:.0}%", latency.total_ns() as f64 / total as f64 * 1e2),
        };
        key(text, name)?;
        write!(text, " {:>9} {share:>4}", latency.count())?;
        let quantile = |share| latency.quantile_ns(share).map(|ns| ns as f64);
        let max = latency.max_ns().map(|ns| ns as f64);
        for ns in [
            latency.mean_ns(),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            max,
        ] {
            write!(text, " {:>8}", microseconds_or_dash(ns))?;
        }
        text.push('\n');
    }
    Ok(())
}

/// Writes a row for each group, and a column for each bucket from the first to the last that is not empty, as
/// many as fit side by side.
fn buckets(
    text: &mut String,
    paint: Paint,
    title: &str,
    rows: &[Row<'_>],
    of: fn(&Group) -> &Latency,
) -> fmt::Result {
    let sums = |bucket: usize| rows.iter().map(move |row| of(row.group).buckets()[bucket]);
    let all = (0..connect_trace_common::BUCKETS).map(|bucket| sums(bucket).sum());
    let occupied: Vec<usize> = histogram::occupied(all).into_iter().flatten().collect();
    let most = occupied.iter().flat_map(|&bucket| sums(bucket)).max();
    // The edge "100 us" needs six columns.
    let width = most.unwrap_or(0).to_string().len().max(6);
    let side_by_side = (WIDTH - KEY) / (width + 1);
    for occupied in occupied.chunks(side_by_side.max(1)) {
        let title = format!("{:<KEY$}", format!("{title}, from"));
        write!(text, "\n{}", paint.title(&title))?;
        for &bucket in occupied {
            write!(text, " {:>width$}", edge(lower_edge_ns(bucket)))?;
        }
        text.push('\n');
        for Row { name, group } in rows {
            if of(group).count() == 0 {
                continue;
            }
            key(text, name)?;
            for &bucket in occupied {
                write!(text, " {:>width$}", of(group).buckets()[bucket])?;
            }
            text.push('\n');
        }
    }
    Ok(())
}

/// Writes the key in its column, or on its own line before the rest of the row.
fn key(text: &mut String, name: &str) -> fmt::Result {
    if name.chars().count() > KEY {
        write!(text, "{name}\n{:KEY$}", "")
    } else {
        write!(text, "{name:<KEY$}")
    }
}
