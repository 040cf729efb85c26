//! The report as text, at most 80 columns wide.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
};

use super::{
    account, ends, filling, groups_text, histogram, mitigation, names, overhead, phases,
    port_choices,
    table::{rows, scanned},
    time_wait,
    warnings::warnings,
};
use crate::stats::report::Report;
use crate::stats::{Group, Latency, Summary, by::By, summary::MOST_KINDS};
use crate::term::{
    errno,
    numbers::{counted, wrapped},
    paint::Paint,
};

/// Writes a report.
///
/// # Errors
/// If `out` cannot be written.
pub(crate) fn write(
    out: &mut (impl Write + ?Sized),
    report: &Report,
    paint: Paint,
) -> io::Result<()> {
    out.write_all(render(report, paint).as_bytes())
}

fn render(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = sections(&mut text, report, paint);
    text
}

fn sections(text: &mut String, report: &Report, paint: Paint) -> fmt::Result {
    let summary = &report.summary;
    head(text, report)?;
    if summary.connects > 0 {
        order(text, summary)?;
        if report.by == By::Parity {
            parity(text, paint, summary)?;
        } else {
            groups_text::write(text, paint, report)?;
        }
        if report.by != By::Strategy {
            port_choices::write(text, paint, &summary.port_choices)?;
        }
        if report.by != By::Errno {
            rows(text, paint, "failed, us", &failures(summary), |group| {
                &group.connect
            })?;
        }
        phases::write(text, paint, summary, report.ends.as_ref())?;
    }
    account::checks(text, &report.checks, summary)?;
    time_wait::write(text, report)?;
    account::accounting(text, paint, &report.accounting)?;
    ends::write(text, paint, report)?;
    filling::write(text, paint, report)?;
    mitigation::write(text, paint, report)?;
    overhead::write(text, paint, report)?;
    for (number, warning) in warnings(report).iter().enumerate() {
        if number == 0 {
            text.push('\n');
        }
        wrapped(text, &paint.warning("warning:"), "  ", &warning.text)?;
    }
    Ok(())
}

fn head(text: &mut String, report: &Report) -> fmt::Result {
    let summary = &report.summary;
    writeln!(
        text,
        "{} in {:.2} s",
        if summary.has_others_than_connect() {
            counted(summary.connects, "call", "calls")
        } else {
            counted(summary.connects, "connect() call", "connect() calls")
        },
        report.elapsed.as_secs_f64(),
    )?;
    writeln!(
        text,
        "Linux {}, attached by {}",
        report.kernel, report.attached
    )?;
    if summary.has_others_than_tcp() {
        let kinds = summary.kinds.iter();
        let kinds = kinds.map(|(&kind, count)| format!("{} {count}", names::kind(kind)));
        wrapped(text, "calls:", "  ", &kinds.collect::<Vec<_>>().join(", "))?;
    }
    if !report.filters.is_empty() {
        wrapped(text, "only", "  ", &report.filters.join(" "))?;
    }
    if let Some(budget) = &report.budget {
        overhead::head(text, budget)?;
    }
    if summary.fast > 0 && report.by == By::Parity {
        let fast = counted(summary.fast, "is", "are");
        wrapped(
            text,
            "below --min-latency:",
            "  ",
            &format!("{fast} part of counts, means, maxima and buckets only"),
        )?;
    }
    Ok(())
}

/// Writes the parity that is tried first, for each range that was searched.
fn order(text: &mut String, summary: &Summary) -> fmt::Result {
    const SHOWN: usize = 3;
    let mut ranges: Vec<_> = summary.ranges.iter().collect();
    ranges.sort_by_key(|&(range, &count)| (std::cmp::Reverse(count), *range));
    for (range, count) in ranges.iter().take(SHOWN) {
        let order = match (range.by_parity, range.ports.low % 2) {
            (false, _) => "even and odd together",
            (true, 0) => "even first, then odd",
            (true, _) => "odd first, then even",
        };
        let calls = counted(**count, "search", "searches");
        writeln!(text, "ports {range}: {order}; {calls}")?;
    }
    if ranges.len() > SHOWN {
        // Further ranges are not kept apart.
        let at_least = if ranges.len() < MOST_KINDS {
            ""
        } else {
            "at least "
        };
        writeln!(text, "and {at_least}{} more ranges", ranges.len() - SHOWN)?;
    }
    Ok(())
}

/// Width of the column of a group's name.
const NAME: usize = 14;

/// Writes the buckets of even and odd ports side by side, and a row for each group.
fn parity(text: &mut String, paint: Paint, summary: &Summary) -> fmt::Result {
    let pair = |of: fn(&Group) -> &Latency| [of(&summary.even), of(&summary.odd)];
    let [calls, searches] = titles(summary);
    histogram::pair(text, paint, calls, pair(|group| &group.connect))?;
    histogram::pair(text, paint, searches, pair(|group| &group.search))?;
    let groups = by_port(summary);
    rows(text, paint, "connect(), us", &groups, |group| {
        &group.connect
    })?;
    rows(text, paint, "port search, us", &groups, |group| {
        &group.search
    })?;
    let failed = summary.failures();
    let groups = [groups, vec![("failed".to_owned(), &failed)]].concat();
    scanned(text, paint, &groups, NAME)
}

/// Returns the titles of the buckets of calls and of port searches, which name the kernel's functions.
fn titles(summary: &Summary) -> [&'static str; 2] {
    if summary.mixes_protocols() {
        [
            "calls of several protocols",
            "port search of several protocols",
        ]
    } else if summary.has_others_than_connect() {
        [
            "call (inet_dgram_connect, inet_autobind, udp_lib_get_port)",
            "port search (udp_lib_get_port)",
        ]
    } else if summary.has_others_than_tcp() {
        [
            "connect() (inet_dgram_connect)",
            "port search (udp_lib_get_port)",
        ]
    } else {
        [
            "connect() (tcp_v4_connect, tcp_v6_connect)",
            "port search (__inet_hash_connect)",
        ]
    }
}

/// Returns the successful connections by their ports, and by the passes that found them unless the passes are the
/// parities: even ports in the first pass, odd ports in the second.
pub(super) fn by_port(summary: &Summary) -> Vec<(String, &Group)> {
    let parities = [("even ports", &summary.even), ("odd ports", &summary.odd)];
    let passes = [
        ("first pass", &summary.first_pass),
        ("second pass", &summary.second_pass),
    ];
    let others = [
        ("single pass", &summary.only_pass),
        ("bound before", &summary.bound),
    ];
    let same = parities.map(|(_, group)| group) == passes.map(|(_, group)| group);
    let passes = passes.into_iter().filter(|_| !same);
    let groups = parities.into_iter().chain(passes).chain(others);
    groups
        .map(|(name, group)| (name.to_owned(), group))
        .collect()
}

/// Returns the failed connections, by errno.
pub(super) fn failures(summary: &Summary) -> Vec<(String, &Group)> {
    let known = summary.failed.iter();
    let known = known.map(|(&errno, group)| (errno::name(errno), group));
    let fast = ("below minimum".to_owned(), &summary.failed_fast);
    known.chain([fast]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{CheckMode, Connect, PortRange, SearchRange},
        fixtures::connect_from,
        report::example::{of_groups, parity as report},
        stats::{Groups, accounting::Accounting, report::Checks},
    };

    fn render(report: &Report) -> String {
        super::render(report, Paint(false))
    }

    #[track_caller]
    fn assert_fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}\n{text}");
            assert_eq!(line, line.trim_end(), "no blanks at the end");
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
                ..connect_from(port)
            });
        }
        report.accounting.kernel.search_return_missed = u64::from(u32::MAX);
        report.accounting.kretprobe_misses = Some(u64::from(u32::MAX));
        report.accounting.fork_misses = Some(u64::from(u32::MAX));
        report.accounting.thread_end_misses = Some(u64::from(u32::MAX));
        let range = SearchRange {
            ports: PortRange {
                low: 10_000,
                high: 65_535,
            },
            by_parity: true,
        };
        report.summary.ranges.insert(range, u64::from(u32::MAX));
        report.summary.checks_watched = u64::from(u32::MAX);
        assert_fits(&render(&report));
        report.checks.bursts = 0;
        assert_fits(&render(&report));
        assert_fits(&render(&time_wait::tests::example()));
    }

    #[test]
    fn no_connect_is_a_report_too() {
        let report = Report {
            summary: Summary::default(),
            checks: Checks {
                mode: CheckMode::Off,
                ..Checks::default()
            },
            accounting: Accounting::default(),
            ..report()
        };
        assert_eq!(
            render(&report),
            "0 connect() calls in 1.50 s\nLinux 6.12.0, attached by fentry/fexit\n\n\
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
    fn percentiles_without_the_fast_ones_are_a_dash() {
        let mut report = report();
        report
            .summary
            .merge_fast(&crate::fixtures::below_minimum(7));
        let text = render(&report);
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("{name} is missing from\n{text}"));
            line[name.len()..]
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            row("  even ports "),
            ["9", "28.9", "-", "-", "-", "-", "100.0"]
        );
        assert_eq!(row("  odd ports ")[2], "2100.0");
        assert_eq!(row("  below minimum ")[0], "7");
        assert!(text.starts_with("19 connect() calls in "), "{text}");
        assert!(
            text.contains("\nbelow --min-latency: 14 are part of "),
            "{text}"
        );
        assert_fits(&text);
    }

    /// Returns the names of the rows with times of connect().
    fn rows_of_connect(report: &Report) -> Vec<String> {
        let text = render(report);
        let (_, after) = text.split_once("\nconnect(), us ").unwrap();
        let (table, _) = after.split_once("\n\n").unwrap();
        let rows = table.lines().skip(1);
        rows.map(|row| row[2..16].trim_end().to_owned()).collect()
    }

    #[test]
    fn passes_are_left_out_where_they_are_the_parities() {
        let mut report = report();
        let text = render(&report);
        assert!(
            !text.contains("first pass") && !text.contains("second pass"),
            "{text}"
        );
        assert_eq!(
            rows_of_connect(&report),
            ["even ports", "odd ports", "bound before"]
        );
        report.summary = Summary::default();
        report.summary.record(&connect_from(20_000));
        assert_eq!(rows_of_connect(&report), ["even ports"]);
    }

    #[test]
    fn passes_are_shown_where_they_are_not_the_parities() {
        let range = |low, by_parity| SearchRange {
            ports: PortRange { low, high: 21_999 },
            by_parity,
        };
        // The first pass tries the odd ports in this range.
        let odd_first = |port| Connect {
            connect_ns: u64::from(port),
            range: Some(range(20_001, true)),
            ..connect_from(port)
        };
        let single = |port| Connect {
            range: Some(range(20_000, false)),
            ..connect_from(port)
        };
        let rows_of = |connects: &[Connect]| {
            let mut report = report();
            report.summary = Summary::default();
            connects
                .iter()
                .for_each(|connect| report.summary.record(connect));
            let rows = rows_of_connect(&report);
            // The warning of few connections names the same groups.
            let few = warnings(&report).pop().unwrap().text;
            assert!(rows.iter().take(4).all(|row| few.contains(row)), "{few}");
            rows
        };
        let both = ["even ports", "odd ports", "first pass", "second pass"];
        assert_eq!(rows_of(&[odd_first(20_001), odd_first(20_002)]), both);
        assert_eq!(rows_of(&[odd_first(20_001)]), ["odd ports", "first pass"]);
        assert_eq!(
            rows_of(&[connect_from(20_000), odd_first(20_001)])[2..],
            both[2..3]
        );
        let with_single = rows_of(&[connect_from(20_000), connect_from(20_001), single(20_002)]);
        assert_eq!(with_single[..4], both);
        assert_eq!(with_single[4..], ["single pass"]);
        assert_eq!(
            rows_of(&[single(20_000), single(20_001)]),
            ["even ports", "odd ports", "single pass"]
        );
    }

    #[test]
    fn groups_say_that_they_have_no_connect_below_the_minimum() {
        let mut groups = Groups::new(By::Destination);
        groups.record(&connect_from(20_000));
        groups.merge_fast(&crate::fixtures::below_minimum(7));
        let mut report = of_groups(groups);
        report
            .summary
            .merge_fast(&crate::fixtures::below_minimum(7));
        let text = render(&report);
        let words = "below --min-latency: 14 are one row for every destination; the groups have only\n  \
                     connect() calls that took at least this time\n";
        assert!(text.contains(words), "{text}");
        assert!(!text.contains("counts, means"), "{text}");
    }

    #[test]
    fn the_filters_are_told() {
        let mut report = report();
        report.filters = (1..=20).map(|pid| format!("--pid {pid}")).collect();
        let text = render(&report);
        assert!(text.contains("\nonly --pid 1 --pid 2 "), "{text}");
        assert_fits(&text);
    }

    #[test]
    fn what_the_budget_left_out_is_told_and_fits() {
        let text = render(&overhead::tests::example());
        assert!(
            text.contains("\nsampled: for 0.30 s of this time "),
            "{text}"
        );
        assert!(text.contains(" + not sampled 93\n"), "{text}");
        let blind = "INCOMPLETE: no call was seen for 0.60 s: the probes were detached\n";
        assert!(text.contains(blind), "{text}");
        assert_fits(&text);
    }

    #[test]
    fn warnings_come_last_and_in_colour_only_where_that_is_wanted() {
        let report = report();
        let plain = render(&report);
        let colour = super::render(&report, Paint(true));
        assert!(!plain.contains('\x1b') && colour.contains("\x1b["));
        let stripped = anstream::adapter::strip_str(&colour).to_string();
        assert_eq!(stripped, plain, "nothing but colour differs");
        let (_, last) = plain.split_once("\n\nwarning: ").unwrap();
        assert!(!last.contains("\n\n"), "{plain}");
    }

    #[test]
    fn every_way_to_split_fits_80_columns() {
        use clap::ValueEnum as _;
        for &by in By::value_variants() {
            let mut groups = Groups::new(by);
            for pid in 0..30 {
                let slow = 99_999_999_000;
                groups.record(&Connect {
                    pid: pid + 4_194_000,
                    connect_ns: (slow * u64::from(pid % 2)).max(10_u64.pow(pid % 11)),
                    destination: Some(([255, 255, 255, 255 - pid as u8], 65_535).into()),
                    ..connect_from(65_534 + (pid % 2) as u16)
                });
            }
            groups.merge_fast(&crate::fixtures::below_minimum(1_000_000));
            assert_fits(&render(&of_groups(groups)));
        }
    }
}
