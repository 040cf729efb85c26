//! Durations of the parts of a run: a table at its end, and an estimate at the start of the next run.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::workspace;

/// Number of slowest tests to show.
const SLOWEST: usize = 10;

/// Durations of the parts and tests of this run.
pub(super) struct Durations {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    parts: Vec<Part>,
    tests: Vec<(String, Duration)>,
}

struct Part {
    name: String,
    took: Duration,
    /// CPU time of the emulator.
    cpu_time: Option<Duration>,
}

impl Default for Durations {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            inner: Mutex::default(),
        }
    }
}

impl Durations {
    /// Runs a part and measures its duration.
    pub(super) fn measure<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.add(name, start.elapsed(), None);
        result
    }

    /// Adds a part, with the CPU time of its emulator if there is one.
    pub(super) fn add(&self, name: &str, took: Duration, cpu_time: Option<Duration>) {
        self.lock().parts.push(Part {
            name: name.to_owned(),
            took,
            cpu_time,
        });
    }

    /// Adds a test of a part.
    pub(super) fn add_test(&self, name: &str, took: Duration) {
        self.lock().tests.push((name.to_owned(), took));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { parts, tests } = &mut *self.lock();
        writeln!(f, "{:<15} {:>8} {:>13}", "part", "seconds", "CPU emulated")?;
        for Part {
            name,
            took,
            cpu_time,
        } in parts
        {
            let cpu_time = cpu_time.map_or_else(String::new, seconds);
            writeln!(f, "{name:<15} {:>8} {cpu_time:>13}", seconds(*took))?;
        }
        writeln!(f, "{:<15} {:>8}", "all", seconds(self.start.elapsed()))?;
        if !tests.is_empty() {
            tests.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
            writeln!(f, "\nslowest tests, in seconds")?;
            for (name, took) in tests.iter().take(SLOWEST) {
                writeln!(f, "{:>8.1}  {name}", took.as_secs_f64())?;
            }
        }
        Ok(())
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.0}", duration.as_secs_f64())
}

/// Durations of parts in earlier runs of this tree.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Earlier {
    /// Seconds of each part.
    parts: BTreeMap<String, u64>,
    /// Sum of the seconds of all parts of the last run.
    sum: u64,
    /// Seconds from start to end of the last run.
    all: u64,
}

impl Earlier {
    /// Reads the stored durations; empty if they cannot be read.
    pub(super) fn read() -> Self {
        let text = fs::read_to_string(path()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Stores the durations for the next run, updated with this run. If storing fails, the next run has no estimate.
    pub(super) fn write_with(mut self, durations: &Durations) {
        let parts = &durations.lock().parts;
        let of_part = |part: &Part| (part.name.clone(), part.took.as_secs());
        self.parts.extend(parts.iter().map(of_part));
        self.sum = parts.iter().map(|part| part.took.as_secs()).sum();
        self.all = durations.start.elapsed().as_secs();
        if let Ok(text) = serde_json::to_string_pretty(&self) {
            let _ = fs::write(path(), text);
        }
    }

    /// Returns the seconds that a part took, or the usual seconds without an earlier run.
    pub(super) fn seconds(&self, part: &str, usual: u64) -> u64 {
        self.parts.get(part).copied().unwrap_or(usual)
    }

    /// Returns an estimate of the duration of a run of these parts, each with its usual seconds.
    pub(super) fn estimate(&self, parts: &[(&str, u64)]) -> String {
        let seconds = parts.iter().map(|(part, usual)| self.seconds(part, *usual));
        let sum: u64 = seconds.sum();
        let known = parts.iter().all(|(part, _)| self.parts.contains_key(*part));
        // Parts run at the same time, as many as in the last run.
        let (all, of) = if known && self.sum > 0 {
            (self.all * sum / self.sum, "as earlier runs did")
        } else {
            (
                sum / 2,
                "from an empty build folder on two CPUs with no other work",
            )
        };
        let minutes = all.div_ceil(60).max(1);
        format!("this takes about {minutes} min, {of}")
    }
}

/// Path of the stored durations, in the build folder: another checkout has no estimate at first.
fn path() -> PathBuf {
    workspace::root().join("target/test-durations.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_slowest_tests_first() {
        let durations = Durations::default();
        let second = Duration::from_secs(1);
        durations.add("7.3 kprobe", 90 * second, Some(80 * second));
        for number in 0..12 {
            durations.add_test(&format!("7.3: test {number}"), number * second);
        }
        let text = durations.to_string();
        assert!(
            text.contains("\n7.3 kprobe            90            80\n"),
            "{text}"
        );
        assert!(text.contains("\n    11.0  7.3: test 11\n    10.0  7.3: test 10\n"));
        assert!(!text.contains("test 1\n"), "{text}");
    }

    #[test]
    fn an_estimate_is_from_the_earlier_run_if_that_had_all_parts() {
        let earlier = Earlier {
            parts: [("lint".to_owned(), 100), ("host".to_owned(), 500)].into(),
            sum: 600,
            all: 400,
        };
        assert_eq!(
            earlier.estimate(&[("lint", 1), ("host", 1)]),
            "this takes about 7 min, as earlier runs did"
        );
        let estimate = earlier.estimate(&[("lint", 1), ("7.3 kprobe", 240)]);
        assert!(
            estimate.starts_with("this takes about 3 min, from an empty"),
            "{estimate}"
        );
        assert_eq!(earlier.seconds("7.3 kprobe", 240), 240);
    }
}
