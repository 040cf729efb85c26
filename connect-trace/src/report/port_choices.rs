//! The port choices as a table, with the cost of each.

use std::fmt::{self, Write as _};

use super::{names, table::ports_or_dash};
use crate::stats::PortChoices;
use crate::term::{numbers::microseconds_or_dash, paint::Paint};

/// Width of the column of port choices.
const NAME: usize = 24;

/// Writes a row for each port choice, if there is any besides the default one.
pub(super) fn write(text: &mut String, paint: Paint, port_choices: &PortChoices) -> fmt::Result {
    let all = port_choices.all();
    let only_default = all.iter().all(|(choice, _)| {
        choice.is_some_and(|choice| choice.port_choice == crate::connect::PortChoice::Default)
    });
    if only_default {
        return Ok(());
    }
    let title = paint.title(&format!("{:<NAME$}", "port chosen by"));
    writeln!(
        text,
        "\n{title} {:>8} {:>7} {:>9} {:>9} {:>9} {:>8}",
        "count", "failed", "mean us", "p99 us", "scan mean", "scan max"
    )?;
    for (choice, chosen) in all {
        let name = choice.map_or_else(|| "others".to_owned(), names::choice);
        let connect = &chosen.group.connect;
        let p99 = connect.quantile_ns(0.99).map(|ns| ns as f64);
        let scanned = &chosen.group.scanned;
        let max = (scanned.count > 0).then(|| f64::from(scanned.max));
        writeln!(
            text,
            "  {name:<0$} {1:>8} {2:>7} {3:>9} {4:>9} {5:>9} {6:>8}",
            NAME - 2,
            connect.count(),
            chosen.failed,
            microseconds_or_dash(connect.mean_ns()),
            microseconds_or_dash(p99),
            ports_or_dash(scanned.mean(), 1),
            ports_or_dash(max, 0),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        connect::{Connect, PortChoice, PortRange, SearchRange, SourcePort},
        fixtures::connect_from,
    };

    fn written(connects: &[Connect]) -> String {
        let mut port_choices = PortChoices::default();
        for connect in connects {
            port_choices.record(connect);
        }
        let mut text = String::new();
        write(&mut text, Paint(false), &port_choices).unwrap();
        text
    }

    #[test]
    fn the_default_alone_needs_no_table() {
        assert_eq!(written(&[]), "");
        assert_eq!(written(&[connect_from(20_000)]), "");
    }

    #[test]
    fn each_strategy_is_a_row_that_fits() {
        let own = Connect {
            port_choice: Some(PortChoice::Range),
            address_bound: Some(true),
            range: Some(SearchRange {
                ports: PortRange {
                    low: 1_024,
                    high: 65_535,
                },
                by_parity: false,
            }),
            connect_ns: 99_999_999_000,
            scanned: Some(64_512),
            ..connect_from(20_000)
        };
        let failed = Connect {
            errno: libc::EADDRNOTAVAIL,
            ..own
        };
        let bound = Connect {
            port_choice: Some(PortChoice::ExplicitPort),
            port: SourcePort::Bound(80),
            scanned: None,
            ..connect_from(0)
        };
        let text = written(&[
            own,
            failed,
            connect_from(20_000),
            connect_from(20_002),
            bound,
        ]);
        let expected = "
port chosen by              count  failed   mean us    p99 us scan mean scan max
  range of 64512+address        2       1  99999999  99999999   64512.0    64512
  default                       2       0      20.0      20.0       1.0        1
  explicit-port                 1       0      20.0      20.0         -        -
";
        assert_eq!(text, expected, "\n{text}");
        assert!(text.lines().all(|line| line.len() <= 80));
    }
}
