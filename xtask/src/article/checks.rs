//! What must agree with the article, whatever the machine.

use std::fmt;

use super::PORTS;
use super::figures::{ARTICLE, Figures};

/// One statement, and whether it held.
pub(super) struct Check {
    pub(super) agrees: bool,
    words: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.agrees { "agrees " } else { "differs" };
        write!(f, "{verdict}  {}", self.words)
    }
}

/// All of them. A run that is missing agrees with nothing.
pub(super) fn checks(runs: &[Figures]) -> Vec<Check> {
    let empty = Figures::default();
    let run = |name: &str| runs.iter().find(|run| run.name == name).unwrap_or(&empty);
    let ratio = |run: &Figures| Some(run.odd_ms? / run.even_ms?);
    let default = run("default");
    let mut checks = vec![
        check(
            default.first_odd == Some(PORTS / 2),
            format!(
                "default: first odd port after {} connections (28256)",
                or_dash(default.first_odd)
            ),
        ),
        check(
            ratio(default).is_some_and(|ratio| ratio >= 20.0),
            format!(
                "default: odd/even mean {} (20 at least)",
                ratio_text(ratio(default))
            ),
        ),
        check(
            run("full-range").errors == Some(0),
            format!(
                "full-range: {} errors (none)",
                or_dash(run("full-range").errors)
            ),
        ),
        even(run("full-range"), "full-range", 0.9, 1.1),
    ];
    for (name, told) in ARTICLE {
        if let (Some(expected), true) = (told.2, name.starts_with("window")) {
            let found = run(name).errors;
            let near =
                found.is_some_and(|found| (found as f64 / expected as f64 - 1.0).abs() <= 0.25);
            checks.push(check(
                near,
                format!(
                    "{name}: {} errors (within 25 % of {expected})",
                    or_dash(found)
                ),
            ));
        }
    }
    let repeat = run("select-test-repeat");
    checks.push(check(
        (8.0..=12.5).contains(&repeat.tries),
        format!(
            "select-test-repeat: {:.1} tries for a connection up to exhaustion (8 to 12)",
            repeat.tries
        ),
    ));
    let two = run("addresses");
    checks.push(check(
        two.even_count == PORTS && two.odd_count == 0,
        format!(
            "two addresses: {} connections in the first pass, twice those of one (about 50000 and 25000)",
            two.even_count
        ),
    ));
    checks.push(even(run("udp default"), "udp default", 0.8, 1.25));
    checks
}

fn check(agrees: bool, words: String) -> Check {
    Check { agrees, words }
}

/// Even and odd ports take the same time.
fn even(run: &Figures, name: &str, low: f64, high: f64) -> Check {
    let ratio = run.odd_ms.zip(run.even_ms).map(|(odd, even)| odd / even);
    check(
        ratio.is_some_and(|ratio| (low..=high).contains(&ratio)),
        format!(
            "{name}: odd/even mean {} ({low} to {high})",
            ratio_text(ratio)
        ),
    )
}

fn ratio_text(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> Figures {
        Figures {
            name: name.to_owned(),
            even_ms: Some(0.02),
            odd_ms: Some(0.02),
            errors: Some(0),
            even_count: PORTS,
            tries: 11.0,
            ..Figures::default()
        }
    }

    fn good() -> Vec<Figures> {
        let mut runs = vec![
            Figures {
                odd_ms: Some(2.0),
                first_odd: Some(28_256),
                ..run("default")
            },
            run("full-range"),
            run("select-test-repeat"),
            run("addresses"),
            run("udp default"),
        ];
        for (name, errors) in [
            ("window-500", 1_004),
            ("window-1000", 1_086),
            ("window-5000", 4_054),
            ("window-10000", 6_622),
        ] {
            runs.push(Figures {
                errors: Some(errors),
                ..run(name)
            });
        }
        runs
    }

    #[test]
    fn what_agrees_is_said_to() {
        for check in checks(&good()) {
            assert!(check.agrees, "{check}");
        }
    }

    #[test]
    fn each_figure_that_differs_is_a_check_that_fails() {
        let spoil: [fn(&mut Figures); 5] = [
            |run| run.first_odd = Some(28_255),
            |run| run.odd_ms = Some(0.03),
            |run| run.errors = Some(10_000),
            |run| run.tries = 1.0,
            |run| run.even_count = 1,
        ];
        for (index, names) in [
            (0, vec!["default"]),
            (1, vec!["default", "full-range", "udp default"]),
            (2, vec!["full-range", "window-500", "window-10000"]),
            (3, vec!["select-test-repeat"]),
            (4, vec!["addresses"]),
        ] {
            for name in names {
                let mut runs = good();
                let place = runs.iter().position(|run| run.name == name).unwrap();
                spoil[index](&mut runs[place]);
                let differ = checks(&runs).iter().filter(|check| !check.agrees).count();
                assert_eq!(differ, 1, "{name} {index}");
            }
        }
        assert!(checks(&[]).iter().all(|check| !check.agrees));
    }
}
