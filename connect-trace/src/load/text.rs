//! The report of a run as text of at most 80 columns.

use std::fmt::{self, Write as _};

use super::{Done, figures::Times, plan::Network, strategy::Strategy};
use crate::{
    report::{histogram, table::rows},
    term::{
        errno,
        numbers::{counted, wrapped},
        paint::Paint,
    },
};

/// The report of a run.
#[must_use]
pub(super) fn render(done: &Done, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = sections(&mut text, done, paint);
    text
}

fn sections(text: &mut String, done: &Done, paint: Paint) -> fmt::Result {
    let (plan, figures) = (&done.plan, &done.figures);
    let first = paint.title(&format!("{}:", plan.strategy));
    wrapped(text, &first, "  ", &outcome(done))?;
    wrapped(text, " ", "  ", &setting(done))?;
    if let Some(number) = done.first_pass() {
        let parity = if plan.range.low % 2 == 0 {
            "odd"
        } else {
            "even"
        };
        let share = f64::from(number) / f64::from(plan.capacity.max(1)) * 100.0;
        writeln!(
            text,
            "  first {parity} port after {number} connections ({share:.1} % of the {} that can be open)",
            plan.capacity
        )?;
    }
    if plan.strategy.repeats() && figures.attempts > 0 {
        let what = if plan.strategy.binds_ports() {
            "ports"
        } else {
            "windows"
        };
        writeln!(
            text,
            "  {:.2} {what} tried per connection, {} at most",
            figures.tries as f64 / figures.attempts as f64,
            figures.most_tries
        )?;
    }
    histogram::pair(
        text,
        paint,
        "connect()",
        [&figures.even.connect, &figures.odd.connect],
    )?;
    let by_port = [
        ("even ports".to_owned(), &figures.even),
        ("odd ports".to_owned(), &figures.odd),
    ];
    rows(text, paint, "connect(), us", &by_port, |of| &of.connect)?;
    if plan.strategy != Strategy::Default {
        rows(text, paint, "before it, us", &by_port, |of| &of.prepare)?;
        rows(text, paint, "both, us", &by_port, |of| &of.whole)?;
    }
    let failed: Vec<(String, &Times)> = figures
        .failed
        .iter()
        .map(|(&number, times)| (errno::name(number), times))
        .collect();
    rows(text, paint, "failed, us", &failed, |of| &of.whole)?;
    for (number, warning) in done.warnings().iter().enumerate() {
        if number == 0 {
            text.push('\n');
        }
        wrapped(text, &paint.warning("warning:"), "  ", warning)?;
    }
    Ok(())
}

fn outcome(done: &Done) -> String {
    let figures = &done.figures;
    format!(
        "{} in {:.2} s, {:.0} per second; {}",
        counted(figures.successes(), "connection", "connections"),
        done.seconds(),
        done.per_second(),
        counted(figures.errors(), "error", "errors"),
    )
}

fn setting(done: &Done) -> String {
    let plan = &done.plan;
    let to = match plan.network {
        Network::Private { .. } => "a private namespace".to_owned(),
        Network::Present { target } => format!("to {target}"),
    };
    let held = match plan.close_above {
        None => "all kept open".to_owned(),
        Some(open) => format!("{open} kept open, the oldest closed"),
    };
    let rate = match plan.rate {
        None => String::new(),
        Some(rate) => format!(", {rate} begun per second"),
    };
    format!(
        "{} {}, ports {}, {}, {}{rate}, {held}, seed {}, {to}, Linux {}",
        plan.protocol,
        if plan.v6 { "IPv6" } else { "IPv4" },
        plan.range,
        counted(plan.sources.len().max(1) as u64, "address", "addresses"),
        counted(plan.threads.into(), "thread", "threads"),
        plan.seed,
        crate::kernel::release(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::example;

    #[test]
    fn a_report_is_this_text() {
        let text = render(&example::done(), Paint(false));
        let text = text.replace(&crate::kernel::release(), "6.12.107");
        assert_eq!(text, include_str!("text_example.txt"), "\n{text}");
    }

    #[test]
    fn a_report_fits_80_columns_whatever_the_figures() {
        let mut done = example::done();
        for times in [&mut done.figures.even, &mut done.figures.odd] {
            for _ in 0..3 {
                times.connect.record(99_999_999_000);
                times.prepare.record(99_999_999_000);
                times.whole.record(99_999_999_000);
            }
        }
        done.plan.sources = vec![[127, 0, 0, 1].into(); 1000];
        done.plan.strategy = Strategy::SelectTestRepeat;
        done.plan.network = Network::Present {
            target: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
                .parse()
                .expect("it is an address"),
        };
        done.figures.tries = 1_000_000_000_000;
        done.figures.most_tries = u32::MAX;
        done.plan.seed = u64::MAX;
        done.plan.rate = Some(u32::MAX);
        for line in render(&done, Paint(false)).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
