//! The report as text, at most 80 columns wide.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use connect_trace_common::{BUCKETS, CheckEstablished, buckets::lower_edge_ns};

use super::{Checks, Report, errno};
use crate::{
    accounting::Accounting,
    aggregate::{Group, Latency, Summary},
};

/// Width of a bar of which two stand side by side, and of a bar alone.
const PAIR_BAR: usize = 16;
const SINGLE_BAR: usize = 40;

/// Writes a report.
///
/// # Errors
/// Where `out` refuses.
pub fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    out.write_all(render(report).as_bytes())
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = sections(&mut text, report);
    text
}

fn sections(text: &mut String, report: &Report) -> std::fmt::Result {
    let summary = &report.summary;
    writeln!(
        text,
        "{} in {:.2} s",
        counted(summary.connects, "connect()", "connect()s"),
        report.elapsed.as_secs_f64(),
    )?;
    writeln!(
        text,
        "Linux {}, attached by {}",
        report.kernel, report.attached
    )?;
    if summary.connects > 0 {
        order(text, summary)?;
        let pair = |of: fn(&Group) -> &Latency| [of(&summary.even), of(&summary.odd)];
        histogram_pair(
            text,
            "connect() (tcp_v4_connect, tcp_v6_connect)",
            pair(|g| &g.connect),
        )?;
        histogram_pair(
            text,
            "port search (__inet_hash_connect)",
            pair(|g| &g.search),
        )?;
        table(text, summary)?;
    }
    checks(text, &report.checks, summary)?;
    accounting(text, &report.accounting)
}

/// Which parity is tried first, for each range that was searched.
fn order(text: &mut String, summary: &Summary) -> std::fmt::Result {
    const SHOWN: usize = 3;
    let mut ranges: Vec<_> = summary.ranges.iter().collect();
    ranges.sort_by_key(|&(range, &count)| (std::cmp::Reverse(count), *range));
    for (range, count) in ranges.iter().take(SHOWN) {
        let order = match (range.by_parity, range.low % 2) {
            (false, _) => "even and odd alike",
            (true, 0) => "even first, odd once those are taken",
            (true, _) => "odd first, even once those are taken",
        };
        let calls = counted(**count, "search", "searches");
        writeln!(text, "ports {range}: {order}; {calls}")?;
    }
    if ranges.len() > SHOWN {
        writeln!(text, "and {} more ranges", ranges.len() - SHOWN)?;
    }
    Ok(())
}

/// The buckets of even and odd ports side by side, to one scale.
fn histogram_pair(text: &mut String, title: &str, [even, odd]: [&Latency; 2]) -> std::fmt::Result {
    let both = || even.buckets().iter().zip(odd.buckets());
    let Some(rows) = occupied(both().map(|(even, odd)| even + odd)) else {
        return Ok(());
    };
    let most = both().map(|(even, odd)| *even.max(odd)).max().unwrap_or(0);
    writeln!(text, "\n{title}")?;
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

/// From the first to the last bucket that holds anything.
fn occupied(buckets: impl Iterator<Item = u64>) -> Option<std::ops::RangeInclusive<usize>> {
    let filled: Vec<usize> = buckets
        .enumerate()
        .filter(|&(_, count)| count > 0)
        .map(|(row, _)| row)
        .collect();
    Some(*filled.first()?..=*filled.last()?)
}

/// Stars for a share of the widest bar; one at least for what is not zero.
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

/// A power of ten of nanoseconds in the unit that people say it in.
fn edge(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

/// Count, mean and percentiles of every group that has anything in it.
fn table(text: &mut String, summary: &Summary) -> std::fmt::Result {
    let groups = [
        ("even ports", &summary.even),
        ("odd ports", &summary.odd),
        ("first pass", &summary.first_pass),
        ("second pass", &summary.second_pass),
        ("single pass", &summary.only_pass),
        ("bound before", &summary.bound),
    ];
    let groups = groups.map(|(name, group)| (name.to_owned(), group));
    rows(text, "connect(), us", groups.iter(), |group| &group.connect)?;
    rows(text, "port search, us", groups.iter(), |group| {
        &group.search
    })?;
    let failed: Vec<_> = summary
        .failed
        .iter()
        .map(|(&errno, group)| (errno::name(errno), group))
        .collect();
    rows(text, "failed, us", failed.iter(), |group| &group.connect)
}

fn rows<'a>(
    text: &mut String,
    title: &str,
    groups: impl Iterator<Item = &'a (String, &'a Group)>,
    of: fn(&Group) -> &Latency,
) -> std::fmt::Result {
    let mut titled = false;
    for (name, group) in groups {
        let latency = of(group);
        let (Some(mean), Some(max)) = (latency.mean_ns(), latency.max_ns()) else {
            continue;
        };
        if !std::mem::replace(&mut titled, true) {
            let columns = ["mean", "p50", "p90", "p99", "p99.9", "max"];
            write!(text, "\n{title:<16}{:>9}", "count")?;
            columns
                .iter()
                .try_for_each(|column| write!(text, " {column:>8}"))?;
            text.push('\n');
        }
        write!(text, "  {name:<14}{:>9}", latency.count())?;
        let quantiles = [0.5, 0.9, 0.99, 0.999];
        let quantiles = quantiles.map(|share| latency.quantile_ns(share).unwrap_or(0) as f64);
        for ns in [mean].into_iter().chain(quantiles).chain([max as f64]) {
            write!(text, " {:>8}", microseconds(ns))?;
        }
        text.push('\n');
    }
    Ok(())
}

/// Microseconds with one decimal, as long as that fits a column; up to 99 s do without.
fn microseconds(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 999_999.95 {
        format!("{us:.1}")
    } else {
        format!("{us:.0}")
    }
}

fn checks(text: &mut String, checks: &Checks, summary: &Summary) -> std::fmt::Result {
    if checks.mode == "off" {
        return Ok(());
    }
    writeln!(text)?;
    if checks.mode == "sampled" && checks.bursts == 0 {
        writeln!(
            text,
            "port checks, sampled: the first burst has not ended; {} overlapped",
            counted(summary.checks_watched, "connect()", "connect()s"),
        )?;
    } else if checks.mode == "sampled" {
        writeln!(
            text,
            "port checks, sampled: {} of {:.1} ms in all; {} overlapped",
            counted(checks.bursts, "burst", "bursts"),
            checks.watched.as_secs_f64() * 1e3,
            counted(summary.checks_watched, "connect()", "connect()s"),
        )?;
    } else {
        writeln!(
            text,
            "port checks, {}: every call, which slows connect() down",
            checks.mode
        )?;
    }
    if summary.checks_counted > 0 {
        writeln!(
            text,
            "{:.1} calls for each connect()",
            summary.checks as f64 / summary.checks_counted as f64
        )?;
    }
    let mut seen = false;
    for (name, function) in checks
        .functions
        .iter()
        .filter(|(_, function)| function.calls > 0)
    {
        seen = true;
        check_function(text, name, function)?;
    }
    if !seen {
        writeln!(
            text,
            "no call was seen: no candidate port that was in use was looked at"
        )?;
    }
    Ok(())
}

fn check_function(text: &mut String, name: &str, function: &CheckEstablished) -> std::fmt::Result {
    write!(text, "{name}: {}", counted(function.calls, "call", "calls"))?;
    if function.timed == 0 {
        return writeln!(text);
    }
    writeln!(
        text,
        ", mean {:.0} ns, max {} ns",
        function.total_ns as f64 / function.timed as f64,
        function.max_ns,
    )?;
    if function.timed < function.calls {
        writeln!(
            text,
            "  {} not timed: preempted or migrated in the middle, or cut by a burst's end",
            function.calls - function.timed
        )?;
    }
    let most = function.buckets.iter().copied().max().unwrap_or(0);
    for row in occupied(function.buckets.iter().copied())
        .into_iter()
        .flatten()
    {
        let count = function.buckets[row];
        writeln!(
            text,
            "{:<22} {count:>9} |{}|",
            bucket(row),
            bar(count, most, SINGLE_BAR)
        )?;
    }
    Ok(())
}

/// The identity, always; what was lost and why; what the kernel itself missed.
fn accounting(text: &mut String, accounting: &Accounting) -> std::fmt::Result {
    if let Some(unknown) = accounting.unknown {
        return writeln!(text, "\n{unknown}");
    }
    let kernel = &accounting.kernel;
    write!(
        text,
        "\nentered {} = reported {} + lost {} + in flight {}",
        kernel.entered,
        accounting.decoded,
        accounting.lost(),
        accounting.in_flight,
    )?;
    let in_ring = accounting.in_ring() - accounting.undecodable.min(accounting.in_ring());
    if in_ring > 0 {
        write!(text, " + in the ring {in_ring}")?;
    }
    writeln!(text)?;
    for (count, what) in [
        (
            kernel.ring_full,
            "lost: the ring buffer was full; --ring-buffer makes it larger",
        ),
        (
            kernel.in_flight_full,
            "lost: too many in flight at once; --max-in-flight raises it",
        ),
        (
            kernel.return_missed,
            "lost: the return was not seen; --attach fentry sees all",
        ),
        (
            accounting.undecodable,
            "lost: the entry in the ring buffer was no record",
        ),
        (
            kernel.search_return_missed,
            "reported without search time: its return was not seen",
        ),
        (kernel.filtered, "more were left out by the filters"),
    ] {
        if count > 0 {
            writeln!(text, "{count:>9} {what}")?;
        }
    }
    let misses = [
        ("programs skipped", accounting.recursion_misses),
        ("kretprobe slots", accounting.kretprobe_misses),
    ];
    let misses: Vec<String> = misses
        .iter()
        .filter_map(|(name, count)| count.map(|count| format!("{name} {count}")))
        .collect();
    if !misses.is_empty() {
        writeln!(
            text,
            "the kernel's own counts of misses: {}",
            misses.join(", ")
        )?;
    }
    if !accounting.adds_up() {
        writeln!(
            text,
            "INCOMPLETE: {} entered, {} accounted for",
            kernel.entered,
            accounting.accounted()
        )?;
    } else if !accounting.complete() {
        writeln!(
            text,
            "INCOMPLETE: the kernel skipped programs, so calls may not have been seen"
        )?;
    }
    Ok(())
}

/// A number with its noun.
fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        aggregate::summary::tests::example,
        event::{Connect, PortRange, SourcePort},
    };

    /// Two even connects, one odd one that searched long, one bound, one failed.
    fn report() -> Report {
        let mut summary = Summary::default();
        summary.record(&example(20_000));
        summary.record(&Connect {
            connect_ns: 100_000,
            ..example(20_002)
        });
        let search_ns = Some(2_000_000);
        summary.record(&Connect {
            connect_ns: 2_100_000,
            search_ns,
            ..example(20_001)
        });
        summary.record(&Connect {
            port: SourcePort::Bound(80),
            ..example(0)
        });
        let failed = Connect {
            port: SourcePort::None,
            errno: libc::EADDRNOTAVAIL,
            ..example(0)
        };
        summary.record(&Connect {
            connect_ns: 4_000_000,
            search_ns,
            checks_watched: true,
            ..failed
        });
        let mut checks = CheckEstablished {
            calls: 3,
            timed: 2,
            total_ns: 1_500,
            ..CheckEstablished::default()
        };
        checks.max_ns = 1_000;
        checks.buckets[2] = 1;
        checks.buckets[3] = 1;
        Report {
            kernel: "6.12.0".to_owned(),
            attached: "fentry/fexit".to_owned(),
            at: SystemTime::UNIX_EPOCH,
            elapsed: Duration::from_millis(1_500),
            summary,
            checks: Checks {
                mode: "sampled".to_owned(),
                bursts: 1,
                watched: Duration::from_millis(70),
                functions: vec![("__inet_check_established", checks)],
            },
            accounting: Accounting {
                kernel: connect_trace_common::Counters {
                    entered: 7,
                    reported: 5,
                    ring_full: 1,
                    filtered: 12,
                    ..Default::default()
                },
                decoded: 5,
                in_flight: 1,
                recursion_misses: Some(0),
                ..Accounting::default()
            },
        }
    }

    #[test]
    fn a_report_is_this_text() {
        let expected = include_str!("text_example.txt");
        assert_eq!(render(&report()), expected, "\n{}", render(&report()));
    }

    #[test]
    fn a_report_fits_80_columns_whatever_the_figures() {
        let mut report = report();
        let slow = 99_999_999_000;
        for port in [20_000, 20_001, 20_002] {
            report.summary.record(&Connect {
                connect_ns: slow,
                search_ns: Some(slow),
                ..example(port)
            });
        }
        report.accounting.kernel.search_return_missed = u64::from(u32::MAX);
        let range = PortRange {
            low: 10_000,
            high: 65_535,
            by_parity: true,
        };
        report.summary.ranges.insert(range, u64::from(u32::MAX));
        for line in render(&report).lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert_eq!(line, line.trim_end(), "no blanks at the end");
        }
    }

    #[test]
    fn no_connect_is_a_report_too() {
        let report = Report {
            summary: Summary::default(),
            checks: Checks {
                mode: "off".to_owned(),
                ..Checks::default()
            },
            accounting: Accounting::default(),
            ..report()
        };
        assert_eq!(
            render(&report),
            "0 connect()s in 1.50 s\nLinux 6.12.0, attached by fentry/fexit\n\n\
             entered 0 = reported 0 + lost 0 + in flight 0\n"
        );
    }

    #[test]
    fn what_does_not_add_up_is_marked() {
        let mut report = report();
        assert!(!render(&report).contains("INCOMPLETE"));
        report.accounting.kernel.entered += 1;
        assert!(render(&report).contains("INCOMPLETE: 8 entered, 7 accounted for\n"));
        report.accounting.kernel.entered -= 1;
        report.accounting.recursion_misses = Some(2);
        assert!(render(&report).contains("INCOMPLETE: the kernel skipped programs"));
    }

    #[test]
    fn a_bar_shows_the_least_of_counts_and_nothing_for_none() {
        assert_eq!(bar(0, 1_000_000, 4), "    ");
        assert_eq!(bar(1, 1_000_000, 4), "*   ");
        assert_eq!(bar(1_000_000, 1_000_000, 4), "****");
    }
}
