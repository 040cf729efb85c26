//! Results that must agree with the article on any machine.

use std::fmt;
use std::ops::RangeInclusive;

use super::PORTS;
use super::figures::{ARTICLE, Figures};

/// Errors caused by random places of windows: mean and standard deviation over 200 seeds; a test draws some of them
/// again. The deviation is between seeds: runs with one seed vary less.
const CHANCE: [(&str, f64, f64); 4] = [
    ("window-500", 992.0, 56.0),
    ("window-1000", 1_105.0, 51.0),
    ("window-5000", 4_154.0, 65.0),
    ("window-10000", 6_708.0, 78.0),
];

/// Deviations from the mean that are still accepted as chance. Kernels before 6.8 take the ports of one parity first in
/// a window too, which causes up to a twentieth fewer errors: one deviation at most.
const DEVIATIONS: f64 = 6.0;

/// Strategies that the article does not have.
const BETTER: [&str; 3] = ["cursor", "window-cursor-32", "window-retry-32"];

/// One statement, true or not.
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

/// Makes all checks. A missing run fails its checks.
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
    for (name, mean, deviation) in CHANCE {
        let found = run(name).errors;
        let by_chance = by_chance(mean, deviation);
        let article = ARTICLE.iter().find(|article| article.0 == name);
        checks.push(check(
            found.is_some_and(|found| by_chance.contains(&found)),
            format!(
                "{name}: {} errors (by chance {} to {}, the article's {})",
                or_dash(found),
                by_chance.start(),
                by_chance.end(),
                or_dash(article.and_then(|article| article.1.2))
            ),
        ));
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
    for name in BETTER {
        let run = run(name);
        checks.push(check(
            run.errors == Some(0),
            format!("{name}: {} errors (none)", or_dash(run.errors)),
        ));
        let share = run
            .odd_ms
            .zip(default.odd_ms)
            .map(|(own, other)| own / other);
        checks.push(check(
            share.is_some_and(|share| share <= 0.1),
            format!(
                "{name}: odd ports take {} of the default's time (a tenth at most)",
                share.map_or_else(|| "-".to_owned(), |share| format!("{share:.4}"))
            ),
        ));
    }
    checks
}

fn by_chance(mean: f64, deviation: f64) -> RangeInclusive<u64> {
    let reach = deviation * DEVIATIONS;
    (mean - reach) as u64..=(mean + reach) as u64
}

fn check(agrees: bool, words: String) -> Check {
    Check { agrees, words }
}

/// Checks that even and odd ports take the same time.
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
            run("cursor"),
            run("window-cursor-32"),
            run("window-retry-32"),
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

    /// Returns the errors of a run in which each connection takes the first free port of a window at a random place,
    /// continuing from the end of the last search, as the kernel does since 6.8.
    fn drawn(window: usize, seed: u64) -> u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as usize % limit
        };
        let ports = PORTS as usize;
        // For each port, the port itself or a later one, with no free port in between.
        let mut next: Vec<usize> = (0..=ports).collect();
        let mut free_from = |mut port: usize, take: bool| {
            while next[port] != port {
                next[port] = next[next[port]];
                port = next[port];
            }
            if take {
                next[port] = port + 1;
            }
            port
        };
        let mut offset = below(window);
        let mut errors = 0;
        for _ in 0..ports {
            let low = below(ports - window + 1);
            let begin = low + offset % window;
            let mut port = free_from(begin, false);
            if port >= low + window {
                port = free_from(low, false);
            }
            if port >= low + window {
                errors += 1;
                continue;
            }
            free_from(port, true);
            let steps = (port + window - begin) % window;
            offset += steps.max(below(8)) + 1;
        }
        errors
    }

    #[test]
    fn what_chance_makes_of_windows_is_what_is_expected() {
        let seeds = 20;
        for (name, mean, deviation) in CHANCE {
            let window = name.trim_start_matches("window-").parse().unwrap();
            let errors = (1..=seeds).map(|seed| drawn(window, seed)).sum::<u64>();
            let found = errors as f64 / seeds as f64;
            // Three standard deviations of a mean over this number of seeds.
            let reach = 3.0 * deviation / (seeds as f64).sqrt();
            assert!((found - mean).abs() <= reach, "{name}: {found}, not {mean}");
        }
    }

    #[test]
    fn the_articles_errors_and_those_of_any_run_are_chance() {
        for (name, mean, deviation) in CHANCE {
            let told = ARTICLE.iter().find(|told| told.0 == name).unwrap().1.2;
            assert!(
                by_chance(mean, deviation).contains(&told.unwrap()),
                "{name}"
            );
        }
        // Nine runs of one seed had 1,031 to 1,091, and 25 % above the article's 868 are 1,085.
        assert_eq!(by_chance(CHANCE[0].1, CHANCE[0].2), 656..=1_328);
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
            |run| run.odd_ms = Some(0.3),
            |run| run.errors = Some(10_000),
            |run| run.tries = 1.0,
            |run| run.even_count = 1,
        ];
        for (index, names) in [
            (0, vec!["default"]),
            (
                1,
                vec![
                    "default",
                    "full-range",
                    "udp default",
                    "cursor",
                    "window-cursor-32",
                    "window-retry-32",
                ],
            ),
            (
                2,
                vec![
                    "full-range",
                    "window-500",
                    "window-10000",
                    "cursor",
                    "window-cursor-32",
                    "window-retry-32",
                ],
            ),
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
