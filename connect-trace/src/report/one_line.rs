//! A report as one line, in columns that stay the same from line to line.

use std::collections::HashSet;

use super::route_ports;
use super::warnings::{Warning, warnings};
use crate::stats::{filling::Filling, forecast::Outlook, report::Report};
use crate::term::{numbers::microseconds_or_dash, paint::Paint};
use crate::{
    clock::Time,
    connect::Fate,
    stats::{Ends, Latency, accounting::Accounting},
};

/// Number of lines of a header.
const HEADER: usize = 2;

/// The reports of a trace or of a recording, with a line for each.
#[derive(Clone, Debug)]
pub(crate) struct ReportLines {
    /// Width of the time of day.
    time: usize,
    /// Reports since the last header; `None` before the first.
    since_header: Option<usize>,
    /// Calls that were lost up to the last report; `None` if that is not known.
    lost: Option<u64>,
    /// Kinds of warnings that were printed already.
    told: HashSet<&'static str>,
}

impl ReportLines {
    /// Creates the lines; with `with_ms`, the time of day has milliseconds.
    #[must_use]
    pub(crate) fn new(with_ms: bool) -> Self {
        Self {
            time: if with_ms { 12 } else { 8 },
            since_header: None,
            lost: Some(0),
            told: HashSet::new(),
        }
    }

    /// Returns the next line, after a header at the start and on each further screen of `rows` rows. Without
    /// `rows`, if the output is not a terminal, there is one header.
    pub(crate) fn next(&mut self, report: &Report, rows: Option<usize>, paint: Paint) -> String {
        let is_due = |since: usize| rows.is_some_and(|rows| since + HEADER >= rows.max(HEADER + 2));
        let mut text = String::new();
        if self.since_header.is_none_or(is_due) {
            text = self.header(report, paint);
            self.since_header = Some(0);
        }
        *self.since_header.get_or_insert(0) += 1;
        text + &self.line(report)
    }

    /// Returns the warnings that were not printed yet, except for percentiles of few connections.
    pub(crate) fn new_warnings(&mut self, report: &Report) -> Vec<Warning> {
        let mut found = warnings(report);
        found.retain(|warning| warning.kind != "few_samples" && !self.told.contains(warning.kind));
        self.told.extend(found.iter().map(|warning| warning.kind));
        found
    }

    fn header(&self, report: &Report, paint: Paint) -> String {
        let width = self.time;
        let mut above = format!(
            "{:width$} {:10} {:7} {:>17} {:>17}",
            "", "", "", "even ports, us", "odd ports, us"
        );
        let mut titles = format!(
            "{:width$} {:>10} {:>7} {:>8} {:>8} {:>8} {:>8} {:>5} {:>6}",
            "TIME", "connects/s", "failed", "p50", "p99", "p50", "p99", "odd", "lost"
        );
        let mut add = |group: &str, columns: &str| {
            above = format!("{above:<width$}{group}", width = titles.len());
            titles.push_str(columns);
        };
        if report.ends.is_some() {
            add("     handshake, us", "      p50      p99  ended");
        }
        if report.filling.is_some() {
            add("   fullest route", "  in use     end");
        }
        format!("{}\n{}\n", paint.title(&above), paint.title(&titles))
    }

    fn line(&mut self, report: &Report) -> String {
        let summary = &report.summary;
        let (even, odd) = (&summary.even.connect, &summary.odd.connect);
        let time = Time::from(report.at);
        let time = match self.time {
            8 => time.of_day(),
            _ => time.of_day_with_ms(),
        };
        let seconds = report.elapsed.as_secs_f64();
        let rate = if seconds > 0.0 {
            format!("{:.0}", summary.connects as f64 / seconds)
        } else {
            "-".to_owned()
        };
        let [even_p50, even_p99] = percentiles(even);
        let [odd_p50, odd_p99] = percentiles(odd);
        let searched = even.count() + odd.count();
        let share = if searched > 0 {
            format!("{:.0}%", odd.count() as f64 / searched as f64 * 1e2)
        } else {
            "-".to_owned()
        };
        let failed = summary.failures().connect.count();
        let lost = self.lost(&report.accounting);
        format!(
            "{time} {rate:>10} {failed:>7} {even_p50:>8} {even_p99:>8} {odd_p50:>8} {odd_p99:>8} {share:>5} {lost:>6}{}{}\n",
            report.ends.as_ref().map(of_ends).unwrap_or_default(),
            report.filling.as_ref().map(of_filling).unwrap_or_default()
        )
    }

    /// Returns the calls that were lost since the last report, with a plus if others may have gone unseen.
    fn lost(&mut self, accounting: &Accounting) -> String {
        let known = accounting.unknown.is_none().then(|| accounting.lost());
        let before = std::mem::replace(&mut self.lost, known);
        match (known, before) {
            (Some(now), Some(before)) => {
                let plus = if accounting.complete() { "" } else { "+" };
                format!("{}{plus}", now.saturating_sub(before))
            }
            _ => "-".to_owned(),
        }
    }
}

/// Returns the columns of connections that were followed: the handshakes that succeeded, and the ends.
fn of_ends(ends: &Ends) -> String {
    let established = ends.handshakes.get(&Fate::Established);
    let [p50, p99] = established.map_or_else(
        || [0; 2].map(|_| "-".to_owned()),
        |handshakes| percentiles(&handshakes.times),
    );
    format!(" {p50:>8} {p99:>8} {:>6}", ends.ended())
}

/// Returns the columns of the route that holds the largest share of its ports: that share, and the time until connect()
/// fails with EADDRNOTAVAIL.
fn of_filling(filling: &Filling) -> String {
    let Some(fullest) = filling.routes.first() else {
        return format!(" {:>7} {:>7}", "-", "-");
    };
    let end = match fullest.forecast.exhausted {
        Outlook::Reached => "now".to_owned(),
        Outlook::In(predicted) => format!("{:.0} s", predicted.seconds),
        Outlook::Unpredicted(_) => "-".to_owned(),
    };
    let all = fullest.ports.map.all_counts();
    let in_use = format!("{:.0}%", route_ports::percent(all.held(), all));
    format!(" {in_use:>7} {end:>7}")
}

fn percentiles(latency: &Latency) -> [String; 2] {
    [0.5, 0.99].map(|share| microseconds_or_dash(latency.quantile_ns(share).map(|ns| ns as f64)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        connect::Connect,
        fixtures::{connect_from, connection_event},
        report::{example::parity, filling},
        stats::{Summary, accounting::Unknown, filling::FillingRoute},
    };

    /// Returns the lines without the hour, which depends on the zone.
    fn next(lines: &mut ReportLines, report: &Report) -> Vec<String> {
        let text = lines.next(report, None, Paint(false));
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        text.lines().map(|line| line[2..].to_owned()).collect()
    }

    #[test]
    fn a_report_is_this_line_under_this_header() {
        let mut report = parity();
        report.elapsed = Duration::from_millis(500);
        let mut lines = ReportLines::new(false);
        let expected = [
            "                             even ports, us     odd ports, us",
            "ME     connects/s  failed      p50      p99      p50      p99   odd   lost",
            ":00:00         10       1     20.0    100.0   2100.0   2100.0   33%      1",
        ];
        assert_eq!(next(&mut lines, &report), expected);
        // Losses are those of the interval, and INCOMPLETE is shown as a plus.
        report.accounting.recursion_misses = Some(3);
        report.summary = Summary::default();
        let nothing = ":00:00          0       0        -        -        -        -     -     0+";
        assert_eq!(next(&mut lines, &report), [nothing]);
        report.accounting.unknown = Some(Unknown::Interval);
        assert!(next(&mut lines, &report)[0].ends_with("     -      -"));
    }

    #[test]
    fn ends_add_columns() {
        let mut ends = Ends::default();
        for fate in [Fate::Established, Fate::Established, Fate::ClosedHere] {
            ends.record(&connection_event(fate));
        }
        let report = Report {
            ends: Some(ends),
            ..parity()
        };
        let text = ReportLines::new(false).next(&report, None, Paint(false));
        let ends: Vec<&str> = text.lines().map(|line| &line[76..]).collect();
        let expected = [
            "     handshake, us",
            "      p50      p99  ended",
            "    300.0    300.0      1",
        ];
        assert_eq!(ends, expected, "{text}");
    }

    #[test]
    fn the_fullest_route_has_columns_of_its_own() {
        let columns = |report: &Report| -> Vec<String> {
            let text = ReportLines::new(false).next(report, None, Paint(false));
            text.lines().map(|line| line[76..].to_owned()).collect()
        };
        let mut report = filling::tests::example();
        assert_eq!(
            columns(&report),
            ["   fullest route", "  in use     end", "     44%       -"]
        );
        fn routes(report: &mut Report) -> &mut Vec<FillingRoute> {
            &mut report.filling.as_mut().unwrap().routes
        }
        let forecast = &mut routes(&mut report)[0].forecast;
        forecast.exhausted = forecast.second_pass.unwrap();
        assert_eq!(columns(&report)[2], "     44%    20 s");
        routes(&mut report)[0].forecast.exhausted = Outlook::Reached;
        assert_eq!(columns(&report)[2], "     44%     now");
        routes(&mut report).clear();
        assert_eq!(columns(&report)[2], "       -       -");
        report.ends = Some(Ends::default());
        assert_eq!(
            columns(&report)[..2],
            [
                "     handshake, us          fullest route",
                "      p50      p99  ended  in use     end"
            ]
        );
    }

    #[test]
    fn it_fits_80_columns_with_milliseconds_and_long_times() {
        let mut report = parity();
        let slow = 99_999_999_000;
        for port in [20_000, 20_001] {
            report.summary.record(&Connect {
                connect_ns: slow,
                ..connect_from(port)
            });
        }
        report.summary.connects = 9_999_999_999;
        report.elapsed = Duration::from_secs(1);
        let found = next(&mut ReportLines::new(true), &report);
        assert_eq!(found[2].chars().count(), 78, "{found:?}");
    }

    #[test]
    fn percentiles_without_the_fast_ones_are_a_dash() {
        let mut report = parity();
        report
            .summary
            .merge_fast(&crate::fixtures::below_minimum(7));
        let found = next(&mut ReportLines::new(false), &report);
        assert!(
            found[2].contains("        -        -   2100.0   2100.0   10% "),
            "{found:?}"
        );
    }

    #[test]
    fn each_screen_has_a_header_and_a_file_has_one() {
        for (rows, expected) in [(Some(24), 5), (Some(0), 50), (None, 1)] {
            let mut lines = ReportLines::new(false);
            let text: String = (0..100)
                .map(|_| lines.next(&parity(), rows, Paint(false)))
                .collect();
            assert_eq!(text.matches("TIME").count(), expected, "{rows:?}");
        }
    }

    #[test]
    fn a_kind_of_warning_is_told_once() {
        let mut lines = ReportLines::new(false);
        let kinds = |found: Vec<Warning>| found.iter().map(|one| one.kind).collect::<Vec<_>>();
        assert_eq!(kinds(lines.new_warnings(&parity())), ["lost", "watched"]);
        let mut report = parity();
        report.clock_step_ns = Some(5_000_000_000);
        assert_eq!(kinds(lines.new_warnings(&report)), ["clock_step"]);
        assert!(lines.new_warnings(&report).is_empty());
    }
}
