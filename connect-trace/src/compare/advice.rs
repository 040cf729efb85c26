//! Recommends a strategy, with the measurements for and against each of them.

use super::{Comparison, StrategyResult};
use crate::{
    load::{plan::Protocol, strategy::Strategy},
    term::numbers::microseconds,
};

/// A strategy with a larger share of errors is not recommended.
const MOST_ERRORS: f64 = 0.001;

/// A strategy that is simpler to use is preferred if its mean time is at most this multiple of the fastest one's.
const AS_GOOD: f64 = 1.3;

/// Time that is always conceded to the simpler strategy: less than a handshake takes on any network.
const AS_GOOD_NS: f64 = 10_000.0;

/// Returns the strategies that fail seldom enough.
pub(super) fn fit(comparison: &Comparison) -> impl Iterator<Item = &StrategyResult> {
    let rows = comparison.rows.iter();
    rows.filter(|row| row.error_share() <= MOST_ERRORS)
}

/// Returns the strategy to use; `None` if every strategy fails too often.
#[must_use]
pub(super) fn best(comparison: &Comparison) -> Option<&StrategyResult> {
    best_of(comparison, |_| true)
}

/// Returns the best of some strategies.
fn best_of(comparison: &Comparison, may_be: impl Fn(Strategy) -> bool) -> Option<&StrategyResult> {
    let fit = || {
        let rows = fit(comparison).filter(|row| may_be(row.strategy));
        rows.filter_map(|row| row.mean_ns().map(|mean| (row, mean)))
    };
    let fastest = fit().map(|(_, mean)| mean).reduce(f64::min)?;
    fit()
        .filter(|&(_, mean)| mean <= fastest * AS_GOOD + AS_GOOD_NS)
        .min_by_key(|(row, _)| effort(row.strategy))
        .map(|(row, _)| row)
}

/// Rank of a strategy by the effort to use it, from 0 for none.
pub(super) fn effort(strategy: Strategy) -> u8 {
    match strategy {
        Strategy::Default => 0,
        Strategy::FullRange => 1,
        Strategy::Window(_) => 2,
        Strategy::WindowRetry(_) => 3,
        Strategy::WindowCursor(_) => 4,
        Strategy::Addresses => 5,
        Strategy::SelectTestRepeat => 6,
        Strategy::Cursor => 7,
        // The setting takes root, and is for all programs of the host.
        Strategy::StepWidth(_) => 8,
    }
}

/// The recommendation: its first sentence, the reasons, and the limits.
#[must_use]
pub(super) fn words(comparison: &Comparison) -> Vec<String> {
    let mut words = vec![recommendation(comparison)];
    words.extend(comparison.rows.iter().filter_map(|row| of(comparison, row)));
    words.extend(left_out(
        comparison,
        |strategy| strategy.needs_port_range(),
        "refuses IP_LOCAL_PORT_RANGE (available from Linux 6.3, and from 6.1.32 in 6.1). From 6.8 on, use full-range.",
    ));
    words.extend(left_out(
        comparison,
        |strategy| strategy.step_width().is_some(),
        "lacks net.ipv4.ip_local_port_step_width (available from Linux 7.1).",
    ));
    words.push(
        "Limits: one destination over the loopback, all connections kept open, no other user of the ports. \
         Ports that other programs bind, with port 0 too, are skipped by every search, and bind() without \
         SO_REUSEADDR fails on ports in use. TIME_WAIT occupies ports as open connections do. Each additional \
         destination can use the whole range again."
            .to_owned(),
    );
    words
}

/// Returns the strategies that are left out for one reason.
fn left_out(
    comparison: &Comparison,
    is_of: impl Fn(&Strategy) -> bool,
    why: &str,
) -> Option<String> {
    let strategies = comparison
        .left_out
        .iter()
        .filter(|strategy| is_of(strategy));
    let names: Vec<String> = strategies.map(Strategy::to_string).collect();
    (!names.is_empty())
        .then(|| format!("Left out: {}, because this kernel {why}", names.join(", ")))
}

fn recommendation(comparison: &Comparison) -> String {
    let what = format!(
        "{} connections to one destination from {} ports on Linux {}",
        comparison.connections,
        comparison.range.ports(),
        comparison.kernel
    );
    let Some(best) = best(comparison) else {
        return format!(
            "For {what}, every strategy fails too often: use more source addresses, a wider range, or fewer \
             connections."
        );
    };
    let why = match best.strategy {
        Strategy::Default => "nothing needs to be changed",
        Strategy::Addresses => {
            "more addresses multiply the ports, and with them the fast first pass"
        }
        Strategy::SelectTestRepeat => {
            "the kernel does not search; expect many tries near exhaustion"
        }
        Strategy::Cursor => {
            "the kernel does not search, and the next port of the list is free as long as ports come free in the \
             order in which they were taken"
        }
        Strategy::WindowRetry(_) => {
            "a short search at a random position, and it fails only if all ports are in use"
        }
        Strategy::WindowCursor(_) => {
            "a very short search in windows that fill up alike, and it fails only if all ports are in use"
        }
        Strategy::Window(_) => "a short search at a random position; expect errors near exhaustion",
        Strategy::FullRange => {
            "it searches even and odd ports together, and fails only if all are in use"
        }
        Strategy::StepWidth(_) => {
            "a setting of the host (net.ipv4.ip_local_port_step_width): random steps lead out of ports in use"
        }
    };
    let mean = best.mean_ns().unwrap_or(0.0);
    let with_one = match best.strategy {
        Strategy::Addresses => best_of(comparison, |strategy| strategy != Strategy::Addresses),
        _ => None,
    };
    let with_one = with_one.map_or(String::new(), |other| {
        let mean = microseconds(other.mean_ns().unwrap_or(0.0));
        format!(" With one address: {}, {mean} us.", other.strategy)
    });
    format!(
        "For {what}, use {}: {why}. Mean time per connection: {} us, with {} errors.{with_one}",
        best.strategy,
        microseconds(mean),
        errors(best)
    )
}

/// Returns the measurements of a strategy that its user has to know, if any.
fn of(comparison: &Comparison, row: &StrategyResult) -> Option<String> {
    let name = row.strategy;
    let mean = microseconds(row.mean_ns()?);
    match name {
        Strategy::Default => {
            let first_pass = row.samples.iter().filter_map(|run| run.first_pass).min()?;
            let second = row.curve.steps.iter().rev().find_map(|step| step.mean_ns());
            (comparison.protocol == Protocol::Tcp).then(|| {
                format!(
                    "{name}: its first pass is used up after {first_pass} connections ({}); after that, each \
                     connection scans all ports of that parity, and takes {} us at the end. Good while fewer \
                     are open.",
                    percent(f64::from(first_pass) / f64::from(comparison.range.ports())),
                    microseconds(second.unwrap_or(0.0)),
                )
            })
        }
        Strategy::Addresses => Some(format!(
            "{name}: {mean} us with {} errors; the same step comes once the ports of one parity are used up on \
             all addresses.",
            errors(row)
        )),
        Strategy::SelectTestRepeat => {
            let tries = row.spread(|run| Some(run.tries))?.mean;
            let until = row.curve.rises_by(2.0);
            let good = until.map_or("it stayed as fast as at the start".to_owned(), |share| {
                format!(
                    "a connection takes more than twice as long once {} of the ports are in use (it is commonly \
                     recommended up to 70 or 80 %)",
                    percent(share)
                )
            });
            Some(format!(
                "{name}: {tries:.1} tries per connection on average; {good}. Every failed try costs a socket."
            ))
        }
        Strategy::Cursor => {
            let tries = row.spread(|run| Some(run.tries))?.mean;
            Some(format!(
                "{name}: {tries:.2} tries per connection on average, with a list of the ports that all threads of \
                 a process share. Several processes find each other's ports taken, and then need more \
                 tries. It has to leave out net.ipv4.ip_local_reserved_ports by itself. For any \
                 destination, searches skip the ports that it binds, and it cannot bind those that they found."
            ))
        }
        Strategy::WindowRetry(_) | Strategy::WindowCursor(_) => {
            let tries = row.spread(|run| Some(run.tries))?.mean;
            let list = match name {
                Strategy::WindowCursor(_) => ", with a list of windows that all threads of a process share",
                _ => "",
            };
            let slower = row.curve.rises_by(2.0).map_or(String::new(), |share| {
                format!(
                    " A connection takes more than twice as long once {} of the ports are in use.",
                    percent(share)
                )
            });
            Some(format!(
                "{name}: {tries:.2} windows per connection on average{list}, the last of them the whole range, so \
                 that no connection fails while a port is free; {} errors.{slower}",
                errors(row)
            ))
        }
        Strategy::Window(_) => row.curve.fails_from().map(|share| {
            format!(
                "{name}: {} of all attempts fail, the first with {} of the ports in use, because the window has \
                 no free port. The middle of the range is in more windows than its ends and fills up first, the \
                 more so the wider the windows are. window-retry tries again.",
                percent(row.error_share()),
                percent(share)
            )
        }),
        Strategy::StepWidth(_) => Some(format!(
            "{name}: {mean} us with {} errors, but no remedy by itself: random steps find free ports sooner where those in \
             use lie in a row, and the ports of one parity still come before the others, so that the step at half of \
             them stays.",
            errors(row)
        )),
        Strategy::FullRange if !comparison.features.mixed && comparison.protocol == Protocol::Tcp => {
            Some(format!(
                "{name}: cannot help on this kernel, which searches one parity first even with that option; \
                 Linux 6.8 and later do not."
            ))
        }
        Strategy::FullRange => row.curve.rises_by(2.0).map(|share| {
            format!(
                "{name}: a connection takes more than twice as long once {} of the ports are in use.",
                percent(share)
            )
        }),
    }
}

fn errors(row: &StrategyResult) -> String {
    row.spread(|run| Some(run.errors as f64))
        .map_or_else(|| "no".to_owned(), |spread| format!("{:.0}", spread.mean))
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 1.0 {
        format!("{percent:.2} %")
    } else {
        format!("{percent:.0} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::comparison;

    #[test]
    fn the_fastest_without_errors_is_recommended() {
        let all = comparison();
        assert_eq!(best(&all).unwrap().strategy, Strategy::FullRange);
        let text = words(&all).join("\n");
        assert!(text.contains("use full-range: it searches"), "{text}");
        assert!(
            text.contains("used up after 100 connections (50 %)"),
            "{text}"
        );
        assert!(
            text.contains("window-100: 10 % of all attempts fail"),
            "{text}"
        );
        assert!(text.contains("bind()"), "{text}");
    }

    #[test]
    fn the_default_is_enough_where_it_is_as_fast() {
        let mut few = comparison();
        for sample in &mut few.rows[0].samples {
            sample.mean_ns = Some(21_000.0);
        }
        assert_eq!(best(&few).unwrap().strategy, Strategy::Default);
        assert!(words(&few)[0].contains("nothing needs to be changed"));
    }

    #[test]
    fn more_addresses_are_recommended_together_with_what_does_without_them() {
        let mut old = comparison();
        old.rows[1].strategy = Strategy::Addresses;
        old.rows[1]
            .samples
            .iter_mut()
            .for_each(|run| run.errors = 0);
        old.rows[2].strategy = Strategy::Cursor;
        let first = &words(&old)[0];
        assert!(first.contains("use addresses: "), "{first}");
        assert!(
            first.ends_with(" With one address: cursor, 21.0 us."),
            "{first}"
        );
    }

    #[test]
    fn a_few_microseconds_are_not_worth_a_strategy_that_is_harder_to_use() {
        let mut all = comparison();
        all.rows[1].strategy = Strategy::Cursor;
        for sample in &mut all.rows[1].samples {
            (sample.errors, sample.mean_ns) = (0, Some(6_000.0));
        }
        for (ns, best_one) in [
            (16_000.0, Strategy::FullRange),
            (18_000.0, Strategy::Cursor),
        ] {
            let rows = &mut all.rows[2].samples;
            rows.iter_mut().for_each(|run| run.mean_ns = Some(ns));
            assert_eq!(best(&all).unwrap().strategy, best_one, "{ns}");
        }
    }

    #[test]
    fn a_setting_of_the_host_is_chosen_last_and_said_to_be_no_remedy() {
        let mut all = comparison();
        all.rows[1].strategy = Strategy::StepWidth(128);
        for sample in &mut all.rows[1].samples {
            (sample.errors, sample.mean_ns) = (0, Some(20_000.0));
        }
        assert_eq!(best(&all).unwrap().strategy, Strategy::FullRange);
        let text = words(&all).join("\n");
        assert!(
            text.contains("step-width-128: 20.0 us with 0 errors, but no remedy by itself"),
            "{text}"
        );
    }

    #[test]
    fn where_all_fail_that_is_said() {
        let mut all = comparison();
        for row in &mut all.rows {
            row.samples.iter_mut().for_each(|run| run.errors = 20);
        }
        assert!(best(&all).is_none());
        assert!(words(&all)[0].contains("fails too often"));
    }

    #[test]
    fn an_old_kernel_is_told_what_newer_ones_have() {
        let mut old = comparison();
        old.features.mixed = false;
        assert!(
            words(&old)
                .join("\n")
                .contains("cannot help on this kernel")
        );
        old.left_out = vec![
            Strategy::Window(500),
            Strategy::FullRange,
            Strategy::StepWidth(128),
        ];
        let text = words(&old).join("\n");
        let setting = "Left out: step-width-128, because this kernel lacks net.ipv4.";
        assert!(text.contains(setting), "{text}");
        assert!(
            text.contains("Left out: window-500, full-range, because"),
            "{text}"
        );
    }
}
