//! The section of a report on connections after their connect(): handshakes, ends, and their account.

use std::fmt::{self, Write as _};

use connect_trace_common::EndCounters;

use super::table::rows;
use crate::stats::{Ends, EndsAccount, Latency, ends::Handshakes, report::Report};
use crate::term::{
    numbers::{counted, wrapped},
    paint::Paint,
};

/// Writes the section, if connections were followed.
pub(super) fn write(text: &mut String, paint: Paint, report: &Report) -> fmt::Result {
    let Some(ends) = &report.ends else {
        return Ok(());
    };
    tables(text, paint, ends)?;
    match &report.ends_account {
        Some(account) => write_account(text, paint, account),
        None => Ok(()),
    }
}

fn tables(text: &mut String, paint: Paint, ends: &Ends) -> fmt::Result {
    let handshakes = ends.handshakes.iter();
    let handshakes: Vec<(String, &Handshakes)> = handshakes
        .map(|(fate, handshakes)| (fate.name().to_owned(), handshakes))
        .collect();
    rows(text, paint, "handshake, us", &handshakes, |handshakes| {
        &handshakes.times
    })?;
    let again: u64 = handshakes.iter().map(|(_, one)| one.retransmitted).sum();
    if again > 0 {
        let again = counted(again, "handshake", "handshakes");
        writeln!(text, "the SYN was sent again in {again}")?;
    }
    let ages = ends.ages.iter();
    let ages: Vec<(String, &Latency)> = ages
        .map(|(fate, ages)| (fate.name().to_owned(), ages))
        .collect();
    rows(text, paint, "lifetime, us", &ages, |ages| ages)
}

/// Writes the account: the sum of all connections, always; the losses with their reasons.
fn write_account(text: &mut String, paint: Paint, account: &EndsAccount) -> fmt::Result {
    let EndCounters {
        followed,
        map_full,
        replaced,
        established_lost,
        ended,
        ended_lost,
        others,
        ..
    } = account.kernel;
    write!(
        text,
        "\nfollowed {followed} = ended {ended} + live {}",
        account.live()
    )?;
    if replaced > 0 {
        write!(text, " + unseen {replaced}")?;
    }
    writeln!(text)?;
    for (count, what) in [
        (
            map_full,
            "were not followed: too many at once; --max-connections raises it",
        ),
        (
            established_lost + ended_lost,
            "events lost: the ring buffer was full; --ring-buffer makes it larger",
        ),
        (
            account.undecodable,
            "events lost: the ring buffer had an entry that is not a record",
        ),
        (
            others,
            "handshakes ended that began before or were left out",
        ),
    ] {
        if count > 0 {
            writeln!(text, "{count:>9} {what}")?;
        }
    }
    if let Some(why) = incomplete(account) {
        let incomplete = format!("{}:", paint.warning("INCOMPLETE"));
        wrapped(text, &incomplete, "  ", &why)?;
    }
    Ok(())
}

/// Returns the reason why ends may be missing, if they may.
fn incomplete(account: &EndsAccount) -> Option<String> {
    let EndCounters {
        followed,
        replaced,
        ended,
        ..
    } = account.kernel;
    let skipped = account.skipped.unwrap_or(0);
    if !account.adds_up() {
        let accounted = ended + replaced + account.live();
        let mut why = format!("{followed} connections followed, {accounted} accounted for");
        if account.in_ring() > 0 {
            let _ = write!(why, ", {} events not read", account.in_ring());
        }
        Some(why)
    } else if skipped > 0 {
        Some(format!(
            "the kernel skipped the program that sees ends {skipped} times, so live connections may have ended"
        ))
    } else if replaced > 0 {
        Some("the ends of some connections were not seen".to_owned())
    } else {
        None
    }
}

/// Returns the warnings of the account: kind and text.
pub(super) fn warnings(account: &EndsAccount) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if account.lost() > 0 {
        let text = format!(
            "{} events of connections since the start were lost, and are not part of any figure",
            account.lost()
        );
        found.push(("ends_lost", text));
    }
    if account.kernel.map_full > 0 {
        let text = format!(
            "{} connections since the start were not followed: more than --max-connections at once",
            account.kernel.map_full
        );
        found.push(("not_followed", text));
    }
    if let Some(why) = incomplete(account) {
        found.push(("ends_incomplete", format!("ends may be missing: {why}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connect::Fate, fixtures::connection_event, report::example};

    fn example() -> (Ends, EndsAccount) {
        let mut ends = Ends::default();
        for fate in [Fate::Established, Fate::Refused, Fate::ClosedHere] {
            ends.record(&connection_event(fate));
        }
        let kernel = EndCounters {
            followed: 5,
            established: 1,
            ended: 2,
            others: 9,
            ..EndCounters::default()
        };
        let account = EndsAccount {
            kernel,
            established_read: 1,
            ended_read: 2,
            left: Some(3),
            ..EndsAccount::default()
        };
        (ends, account)
    }

    fn section(ends: Ends, account: EndsAccount) -> String {
        let report = Report {
            ends: Some(ends),
            ends_account: Some(account),
            ..example::parity()
        };
        let mut text = String::new();
        write(&mut text, Paint(false), &report).unwrap();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        text
    }

    #[test]
    fn the_section_is_this_text() {
        let (ends, account) = example();
        let expected = "
handshake, us       count     mean      p50      p90      p99    p99.9      max
  established           1    300.0    300.0    300.0    300.0    300.0    300.0
  refused               1    300.0    300.0    300.0    300.0    300.0    300.0

lifetime, us        count     mean      p50      p90      p99    p99.9      max
  closed-here           1   2000.0   2000.0   2000.0   2000.0   2000.0   2000.0

followed 5 = ended 2 + live 3
        9 handshakes ended that began before or were left out
";
        assert_eq!(section(ends, account), expected);
        assert!(warnings(&account).is_empty());
    }

    #[test]
    fn each_loss_has_a_line_and_a_warning() {
        let (ends, mut account) = example();
        account.kernel.map_full = 4;
        account.kernel.ended_lost = 1;
        account.ended_read = 1;
        account.kernel.replaced = 1;
        account.left = Some(2);
        let text = section(ends.clone(), account);
        for line in [
            "followed 5 = ended 2 + live 2 + unseen 1\n",
            "        4 were not followed: ",
            "        1 events lost: the ring buffer was full",
            "INCOMPLETE: the ends of some connections were not seen\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let kinds = warnings(&account);
        let kinds: Vec<_> = kinds.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["ends_lost", "not_followed", "ends_incomplete"]);
        account.left = Some(7);
        let text = section(ends, account);
        let why = "INCOMPLETE: 5 connections followed, 10 accounted for\n";
        assert!(text.contains(why), "{text}");
    }
}
