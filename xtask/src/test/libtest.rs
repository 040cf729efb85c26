//! Reads the output of test programs, in the format that libtest and libtest-mimic share.

use std::collections::HashMap;

/// Outcome of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// Number of characters to keep of the reason why a test failed.
const REASON_LENGTH: usize = 150;

/// Text in the reason of a test that is ignored here because it runs in guests.
const ELSEWHERE: &str = "cargo xtask test";

/// State of the test programs so far, read line by line.
#[derive(Default)]
pub(super) struct Log {
    /// Every test that has ended, in order.
    pub(super) tests: Vec<(String, Verdict)>,
    /// Number of tests that are not in `tests` because they run in guests.
    elsewhere: usize,
    /// Reasons of the failed tests, in one line each.
    reasons: HashMap<String, String>,
    /// Failed test whose reason comes next.
    explained: Option<String>,
    /// Test whose line has begun and not ended.
    current: Option<String>,
    /// Number of test programs that have begun, and number of those that have given their result.
    begun: usize,
    ended: usize,
    /// Number of tests that the results account for.
    accounted: usize,
}

impl Log {
    /// Reads the next line; returns false for a line about a test that runs elsewhere.
    pub(super) fn line(&mut self, line: &str) -> bool {
        if let Some(count) = count_in_result(line) {
            self.ended += 1;
            self.accounted += count;
            self.current = None;
        } else if is_beginning(line) {
            self.begun += 1;
        } else if let Some((name, rest)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            self.current = Some(name.trim_end().to_owned());
            self.verdict(rest);
        } else if let Some(name) = heading(line) {
            self.explained = Some(name.to_owned());
        } else if !line.is_empty()
            && let Some(name) = self.explained.take()
        {
            self.reasons.insert(name, beginning(line));
        } else if self.current.is_some() {
            // Output of the test itself may push its verdict to a separate line.
            self.verdict(line);
        }
        !(line.starts_with("test ") && line.contains(ELSEWHERE))
    }

    /// Returns true if a test failed.
    pub(super) fn failed(&self) -> bool {
        self.tests
            .iter()
            .any(|(_, verdict)| *verdict == Verdict::Failed)
    }

    /// Returns the first line of the reason why a test failed.
    pub(super) fn reason(&self, name: &str) -> Option<&str> {
        self.reasons.get(name).map(String::as_str)
    }

    /// Returns true if every program that began gave a result, and the results account for the tests seen.
    pub(super) fn is_complete(&self) -> bool {
        self.begun > 0
            && self.begun == self.ended
            && self.accounted == self.tests.len() + self.elsewhere
    }

    /// Returns the test that was running when the log ended.
    pub(super) fn current(&self) -> &str {
        self.current.as_deref().unwrap_or_default()
    }

    fn verdict(&mut self, text: &str) {
        let verdict = match text.split([' ', ',']).next() {
            Some("ok") => Verdict::Passed,
            Some("FAILED") => Verdict::Failed,
            Some("ignored") if text.contains(ELSEWHERE) => {
                self.elsewhere += 1;
                self.current = None;
                return;
            }
            Some("ignored") => Verdict::Skipped,
            _ => return,
        };
        if let Some(name) = self.current.take() {
            self.tests.push((name, verdict));
        }
    }
}

/// Returns the test's name in `---- NAME ----` or `---- NAME stdout ----`, the line before its reason.
fn heading(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// Shortens a line: the whole line was shown before.
fn beginning(line: &str) -> String {
    match line.char_indices().nth(REASON_LENGTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Returns true for a line such as `running 3 tests`.
fn is_beginning(line: &str) -> bool {
    let count = line
        .strip_prefix("running ")
        .and_then(|line| line.split_once(" test"));
    count.is_some_and(|(count, _)| count.parse::<usize>().is_ok())
}

/// Returns the number of tests that ran or were ignored, from `test result: ok. 1 passed; 0 failed; …`.
fn count_in_result(line: &str) -> Option<usize> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count_of = |label: &str| -> Option<usize> {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(label)?.trim().parse().ok())
    };
    Some(count_of(" passed")? + count_of(" failed")? + count_of(" ignored")?)
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
    fn verdicts_are_read_from_the_lines_of_tests() {
        let log = log("\nrunning 4 tests\n\
             test fentry::counts   ... ok\n\
             test kprobe::counts   ... FAILED\n\
             test kprobe::slow     ... ignored (takes 5.17)\n\
             test help (line 3) ... ok\n\
             test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out\n");
        let verdicts: Vec<_> = log
            .tests
            .iter()
            .map(|(name, v)| (name.as_str(), *v))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("fentry::counts", Verdict::Passed),
                ("kprobe::counts", Verdict::Failed),
                ("kprobe::slow", Verdict::Skipped),
                ("help (line 3)", Verdict::Passed),
            ]
        );
        assert!(log.failed() && log.is_complete());
    }

    #[test]
    fn a_test_that_writes_has_its_verdict_on_a_later_line() {
        let log = log(
            "running 1 test\ntest a ... hello\nworld\nok\ntest result: ok. 1 passed; 0 failed; 0 ignored",
        );
        assert_eq!(log.tests, [("a".to_owned(), Verdict::Passed)]);
        assert!(log.is_complete());
    }

    #[test]
    fn a_guests_test_on_the_host_is_told_from_a_skipped_one() {
        let mut log = Log::default();
        assert!(!log.line("test fentry::a ... ignored (takes root: run `cargo xtask test`)"));
        assert!(log.line("test fentry::b ... ignored"));
        assert_eq!(log.tests, [("fentry::b".to_owned(), Verdict::Skipped)]);
    }

    #[test]
    fn a_failed_test_has_a_reason() {
        let log = log(
            "failures:\n\n---- a stdout ----\n\ntest panicked: no\nmore\n\n\nfailures:\n    a\n",
        );
        assert_eq!(log.reason("a"), Some("test panicked: no"));
        assert_eq!(log.reason("b"), None);
    }

    #[test]
    fn a_long_reason_is_cut() {
        assert_eq!(beginning("short"), "short");
        assert_eq!(beginning(&"ä".repeat(151)), format!("{}…", "ä".repeat(150)));
    }

    #[test]
    fn a_log_that_breaks_off_is_not_complete_and_names_the_test() {
        let log = log("running 2 tests\ntest a ... ok\ntest b ... ");
        assert!(!log.is_complete());
        assert_eq!(log.current(), "b");
    }

    #[test]
    fn a_result_that_does_not_account_for_the_tests_is_not_complete() {
        assert!(
            !log("running 1 test\ntest a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored")
                .is_complete()
        );
        assert!(!log("").is_complete());
        assert!(
            !log(
                "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\nrunning 2 tests"
            )
            .is_complete()
        );
    }
}
