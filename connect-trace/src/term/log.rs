//! The log, as messages on stderr.

use std::env;

use env_filter::{Builder, FilteredLog};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::message::say;

/// The variable that chooses what is logged, such as `debug` or `connect_trace::probes=debug`.
const VARIABLE: &str = "RUST_LOG";

/// Starts the log: `RUST_LOG` chooses what is logged, or else this level.
pub fn start(level: LevelFilter) {
    let mut filter = Builder::new();
    filter.filter_level(level);
    let wanted = env::var(VARIABLE).unwrap_or_default();
    let mut wrong = None;
    if !wanted.is_empty() {
        let mut of_variable = Builder::new();
        match of_variable.try_parse(&wanted) {
            Ok(_) => filter = of_variable,
            Err(error) => wrong = Some(error),
        }
    }
    let filter = filter.build();
    log::set_max_level(filter.filter());
    // An error means that there is a logger, which is then the one to use.
    let _ = log::set_boxed_logger(Box::new(FilteredLog::new(Messages, filter)));
    if let Some(error) = wrong {
        log::warn!("{VARIABLE} is not used: {error}");
    }
}

/// Prints records as messages.
struct Messages;

impl Log for Messages {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        say!("connect-trace: {}: {}", word(record.level()), record.args());
    }

    fn flush(&self) {}
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}
