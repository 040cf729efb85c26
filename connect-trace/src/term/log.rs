//! The log, as messages on stderr.

use std::{env, io};

use env_logger::{Builder, Target};
use log::{Level, LevelFilter};

use super::message::say;

/// Environment variable that chooses what is logged, such as `debug` or `connect_trace::probes=debug`.
const VARIABLE: &str = "RUST_LOG";

/// Starts the log: `RUST_LOG` chooses what is logged, or else `level`.
pub fn start(level: LevelFilter) {
    let mut builder = Builder::new();
    builder.filter_level(level);
    let wanted = env::var(VARIABLE).unwrap_or_default();
    // The log's builder would report an error by a print that panics if stderr cannot be written.
    let checked = env_filter::Builder::new().try_parse(&wanted).map(|_| ());
    if checked.is_ok() && !wanted.is_empty() {
        builder.parse_filters(&wanted);
    }
    builder
        .format(|_, record| {
            say!("connect-trace: {}: {}", word(record.level()), record.args());
            Ok(())
        })
        .target(Target::Pipe(Box::new(io::sink())));
    // An error means that a logger is set already, and that one is used.
    let _ = builder.try_init();
    if let Err(error) = checked {
        log::warn!("{VARIABLE} is ignored: {error}");
    }
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
