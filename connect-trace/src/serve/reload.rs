//! SIGHUP: the service reads its options again, and changes what can be changed without attaching anything.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use tokio::{signal::unix::Signal, task::JoinHandle};

use super::{
    args::ServeArgs,
    config::{self, Values},
    service::{Service, wanted},
};
use crate::{
    filter::{Filters, filter_words},
    term::message::say,
};

/// The keys of options that a reload changes; each other one takes effect when the service starts.
const RELOADED: [&str; 14] = [
    "pid",
    "cgroup",
    "uid",
    "netns",
    "dport",
    "daddr",
    "comm",
    "ipv4",
    "ipv6",
    "failed",
    "min-latency",
    "max-overhead",
    "interval",
    "metrics-routes",
];

/// The options that were read again, with the filters on this host.
pub(super) type Read = Result<(ServeArgs, Filters)>;

/// The reading of the options, in a thread of its own: a source of users' names may answer slowly.
#[derive(Default)]
pub(super) struct Reload {
    reading: Option<JoinHandle<Read>>,
}

impl Reload {
    /// Waits for SIGHUP, and reads the options again. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self, hangup: &mut Signal, args: &ServeArgs) -> Read {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => {
                // Returns nothing once no more signals can come, which a runtime that runs excludes.
                hangup.recv().await;
                let args = args.clone();
                none.insert(tokio::task::spawn_blocking(move || {
                    let read = config::read(&args)?;
                    // The option takes effect when the service starts, with all that it implies.
                    let in_force = ServeArgs {
                        ports: args.ports,
                        ..read.clone()
                    };
                    let filters = wanted(&in_force)?;
                    Ok((read, filters))
                }))
            }
        };
        let read = reading.await;
        self.reading = None;
        read.context("the reading of the options failed")?
    }
}

impl Service {
    /// Applies options that were read again, and returns true if that succeeded. If not, an error is logged, and the options
    /// in force stay so.
    ///
    /// # Errors
    /// If the report of the interval before cannot be made.
    pub(super) async fn reload(&mut self, read: Read) -> Result<bool> {
        let (args, filters) = match read {
            Ok(read) => read,
            Err(error) => {
                refused(&error);
                return Ok(false);
            }
        };
        // Each report is of one configuration.
        if let Err(error) = self.end_interval() {
            refused(&error.context("end the interval"));
            return Ok(false);
        }
        let probes = self.session.tracer().probes();
        let filters = Filters {
            protocols: probes.filters().protocols,
            ..filters
        };
        if let Err(error) = probes.change_filters(&filters) {
            refused(&error.context("change the filters"));
            return Ok(false);
        }
        self.collection.traced.filters = filter_words(&filters);
        self.recording.set_filters(&filters);
        let limited = self.session.set_max_overhead(args.max_overhead).await;
        limited.context("change --max-overhead")?;
        let changes = Changes::between(&self.args.values, &args.values);
        if !changes.of_start.is_empty() {
            log::warn!(
                "reload: needs a restart of the service: {}",
                changes.of_start.join(", ")
            );
        }
        if !self.args.quiet {
            say!("Reloaded: {}.", changes.words());
        }
        let values = changes.in_force(&self.args.values, args.values);
        self.args = ServeArgs {
            interval: args.interval,
            metrics_routes: args.metrics_routes,
            values,
            ..self.args.clone()
        };
        Ok(true)
    }
}

fn refused(error: &anyhow::Error) {
    log::error!("reload: {error:#}; the options before stay in force");
}

/// The differences between two readings of the options.
struct Changes {
    /// Changes that are made now, in words.
    made: Vec<String>,
    /// Keys of options that are looked at only when the service starts.
    of_start: Vec<String>,
}

impl Changes {
    fn between(before: &Values, after: &Values) -> Self {
        let mut changes = Self {
            made: Vec::new(),
            of_start: Vec::new(),
        };
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            if old == new {
                continue;
            }
            if RELOADED.contains(&key.as_str()) {
                let change = format!("{key} {} (before: {})", words(new), words(old));
                changes.made.push(change);
            } else {
                changes.of_start.push(key.clone());
            }
        }
        changes
    }

    fn words(&self) -> String {
        if self.made.is_empty() {
            return "no option has changed".to_owned();
        }
        self.made.join("; ")
    }

    /// Returns the values in force: those of options that need a restart stay as they were.
    fn in_force(&self, before: &Values, mut after: Values) -> Values {
        for key in &self.of_start {
            match before.get(key) {
                Some(old) => after.insert(key.clone(), old.clone()),
                None => after.remove(key),
            };
        }
        after
    }
}

/// Returns the values of an option in words.
fn words(values: Option<&Vec<String>>) -> String {
    values.map_or_else(|| "none".to_owned(), |values| values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &[&str])]) -> Values {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        let pairs = pairs.iter();
        pairs
            .map(|&(key, values)| (key.to_owned(), owned(values)))
            .collect()
    }

    #[test]
    fn a_change_is_told_or_needs_a_restart() {
        let before = values(&[("attach", &["auto"]), ("dport", &["443"]), ("uid", &["1"])]);
        let after = values(&[
            ("attach", &["kprobe"]),
            ("dport", &["443", "8000-8999"]),
            ("listen", &["[::1]:1"]),
        ]);
        let changes = Changes::between(&before, &after);
        assert_eq!(
            changes.words(),
            "dport 443, 8000-8999 (before: 443); uid none (before: 1)"
        );
        assert_eq!(changes.of_start, ["attach", "listen"]);
        let in_force = changes.in_force(&before, after.clone());
        assert_eq!(
            in_force,
            values(&[("attach", &["auto"]), ("dport", &["443", "8000-8999"])])
        );
        let again = Changes::between(&in_force, &after);
        assert_eq!(again.of_start, ["attach", "listen"], "told again");
        assert_eq!(again.words(), "no option has changed");
    }

    #[test]
    fn what_is_reloaded_is_an_option() {
        use clap::{Args as _, Command};
        let command = ServeArgs::augment_args(Command::new("serve"));
        for key in RELOADED {
            let mut options = command.get_arguments();
            assert!(
                options.any(|option| option.get_long() == Some(key)),
                "{key}"
            );
        }
    }
}
