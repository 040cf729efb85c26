//! A comparison of several recordings.

use std::{fmt, path::Path};

use crate::{
    clock::Time,
    connect::Connect,
    recording::Start,
    stats::{Latency, Summary, report::KernelSide},
    term::printable::printable,
};

/// Width of the column with the names of the recordings.
const NAME: usize = 18;

/// A row for each recording.
#[derive(Default)]
pub(super) struct Comparison {
    pub rows: Vec<Row>,
}

/// The row of a recording.
pub(super) struct Row {
    name: String,
    /// Host, kernel and time.
    origin: String,
    summary: Summary,
    /// Calls that were lost; `None` if that is not known.
    lost: Option<u64>,
    /// True if the account is known and complete.
    complete: bool,
}

impl Row {
    pub(super) fn new(path: &Path, start: &Start) -> Self {
        Self {
            name: shortened(&printable(path).to_string()),
            origin: format!(
                "{:.16}, Linux {:.28}, {}",
                start.host,
                start.kernel,
                Time::from(start.wall_clock(start.monotonic_ns)).date_and_time(),
            ),
            summary: Summary::default(),
            lost: None,
            complete: false,
        }
    }

    pub(super) fn connect(&mut self, connect: &Connect) {
        self.summary.record(connect);
    }

    pub(super) fn end(&mut self, kernel_side: &KernelSide) {
        let KernelSide {
            accounting, fast, ..
        } = kernel_side;
        self.summary.merge_fast(fast);
        self.lost = Some(accounting.lost());
        self.complete = accounting.complete();
    }
}

/// Shortens a path from the left: its end says more than its beginning.
fn shortened(path: &str) -> String {
    let length = path.chars().count();
    if length <= NAME {
        return path.to_owned();
    }
    let end: String = path.chars().skip(length - (NAME - 3)).collect();
    format!("...{end}")
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{:<NAME$} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8} {:>6}",
            "connect(), us", "count", "failed", "even", "even p99", "odd", "odd p99", "lost"
        )?;
        for row in &self.rows {
            let Row { summary, lost, .. } = row;
            write!(
                formatter,
                "{:<NAME$} {:>9} {:>7}",
                row.name,
                summary.connects,
                summary.failures().connect.count()
            )?;
            for group in [&summary.even, &summary.odd] {
                for time in mean_and_p99(&group.connect) {
                    write!(formatter, " {time:>8}")?;
                }
            }
            let lost = lost.map_or_else(|| "?".to_owned(), |lost| lost.to_string());
            writeln!(formatter, " {lost:>6}")?;
            writeln!(formatter, "  {}", row.origin)?;
            if !row.complete {
                writeln!(formatter, "  INCOMPLETE")?;
            }
        }
        Ok(())
    }
}

/// Returns mean and 99th percentile in microseconds.
fn mean_and_p99(latency: &Latency) -> [String; 2] {
    let p99 = latency.quantile_ns(0.99).map(|ns| ns as f64);
    [latency.mean_ns(), p99].map(|ns| {
        ns.map_or_else(
            || "-".to_owned(),
            |ns| match ns / 1e3 {
                us if us < 99_999.95 => format!("{us:.1}"),
                us => format!("{us:.0}"),
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::connect_from;

    #[test]
    fn recordings_stand_side_by_side_within_80_columns() {
        let start = Start {
            version: "0.1.0".to_owned(),
            host: "web1.example.com.of.a.long.name".to_owned(),
            kernel: "6.12.0+a-distribution-of-many-words-amd64".to_owned(),
            attached: "fentry/fexit".to_owned(),
            filters: String::new(),
            wall_ns: 1_700_000_000_000_000_000,
            monotonic_ns: 1,
        };
        let mut one = Row::new(Path::new("a.csv.zst"), &start);
        one.connect(&connect_from(20_000));
        one.connect(&Connect {
            connect_ns: 99_000_000_000,
            ..connect_from(20_001)
        });
        let other = Row::new(Path::new("/a/folder/far/away/b.csv.zst"), &start);
        let rows = vec![one, other];
        let text = Comparison { rows }.to_string();
        let expected = "\
connect(), us          count  failed     even even p99      odd  odd p99   lost
a.csv.zst                  2       0     20.0     20.0 99000000 99000000      ?
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\n.../away/b.csv.zst  "), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
