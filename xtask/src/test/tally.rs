//! Sum of all tests: passed tests by origin, failures, and the last line of `cargo xtask test`.

use std::fmt;

use super::libtest::{Log, Verdict};

/// Counts of one origin (host or kernel) and one way to attach.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Counts of all tests, and the failures.
#[derive(Default)]
pub(super) struct Tally {
    rows: Vec<(String, &'static str, Counts)>,
    failures: Vec<String>,
}

impl Tally {
    /// Adds the tests of a log. Tests in guests are grouped by the way the tracer attaches.
    pub(super) fn add(&mut self, origin: &str, log: &Log) {
        for (name, verdict) in &log.tests {
            let counts = self.counts(origin, group(name));
            match verdict {
                Verdict::Passed => counts.passed += 1,
                Verdict::Failed => {
                    counts.failed += 1;
                    let reason = log.reason(name).map(|reason| format!("\n  {reason}"));
                    let reason = reason.unwrap_or_default();
                    self.failures.push(format!("{origin}: {name}{reason}"));
                }
                Verdict::Skipped => counts.skipped += 1,
            }
        }
    }

    /// Adds a failure outside of the tests' own verdicts, and the test that was running, if any.
    pub(super) fn fail(&mut self, origin: &str, during: &str, reason: String) {
        self.counts(origin, group(during)).failed += 1;
        let during = if during.is_empty() {
            String::new()
        } else {
            format!(" in {during}")
        };
        self.failures.push(format!("{origin}{during}: {reason}"));
    }

    /// Returns true if tests ran and none failed.
    pub(super) fn is_good(&self) -> bool {
        let total = self.total();
        total.failed == 0 && total.passed > 0
    }

    fn counts(&mut self, origin: &str, group: &'static str) -> &mut Counts {
        let found = self
            .rows
            .iter()
            .position(|(o, g, _)| o == origin && *g == group);
        let index = found.unwrap_or_else(|| {
            self.rows
                .push((origin.to_owned(), group, Counts::default()));
            self.rows.len() - 1
        });
        &mut self.rows[index].2
    }

    fn total(&self) -> Counts {
        self.rows
            .iter()
            .fold(Counts::default(), |sum, (_, _, counts)| Counts {
                passed: sum.passed + counts.passed,
                failed: sum.failed + counts.failed,
                skipped: sum.skipped + counts.skipped,
            })
    }
}

/// Returns the way to attach that a test in a guest uses, from its name.
fn group(name: &str) -> &'static str {
    match name.split_once("::") {
        Some(("fentry", _)) => "fentry",
        Some(("kprobe", _)) => "kprobe",
        _ => "-",
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:<8} {:>8} {:>8} {:>8}",
            "where", "attach", "passed", "failed", "skipped"
        )?;
        for (
            origin,
            group,
            Counts {
                passed,
                failed,
                skipped,
            },
        ) in &self.rows
        {
            writeln!(
                f,
                "{origin:<10} {group:<8} {passed:>8} {failed:>8} {skipped:>8}"
            )?;
        }
        if !self.failures.is_empty() {
            writeln!(f, "\nfailed:")?;
            for failure in &self.failures {
                writeln!(f, "  {}", failure.replace('\n', "\n  "))?;
            }
        }
        let Counts {
            passed,
            failed,
            skipped,
        } = self.total();
        writeln!(f, "\n{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        let mut log = Log::default();
        for line in text.lines() {
            log.line(line);
        }
        log
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let mut tally = Tally::default();
        tally.add("host", &log("test a ... ok\ntest b ... ignored"));
        tally.add(
            "6.12",
            &log("test fentry::a ... ok\ntest kprobe::a ... FAILED\ntest c ... ok"),
        );
        tally.fail("7.3", "kprobe::b", "it died".to_owned());
        let text = tally.to_string();
        assert!(
            text.ends_with("\n3 passed, 2 failed, 1 skipped\n"),
            "{text}"
        );
        assert!(
            text.contains("\n6.12       fentry          1        0        0\n"),
            "{text}"
        );
        assert!(
            text.contains("\n  6.12: kprobe::a\n  7.3 in kprobe::b: it died\n"),
            "{text}"
        );
        assert!(!tally.is_good());
    }

    #[test]
    fn no_test_at_all_is_not_good() {
        assert!(!Tally::default().is_good());
        let mut skipped = Tally::default();
        skipped.add("6.12", &log("test a ... ignored"));
        assert!(!skipped.is_good());
    }
}
