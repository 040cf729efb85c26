//! The recording of a trace, if requested. An error does not end the trace: it is reported once, and the
//! recording ends.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};

use super::{End, Start, Writer};
use crate::{
    clock,
    connect::{Connect, ConnectionEvent},
    files,
    filter::{Filters, filter_words},
    kernel,
    stats::report::KernelSide,
    term::{message::say, printable::printable},
};

/// Writes the recording of a trace until an error occurs.
pub struct Recorder {
    writer: Option<Writer>,
    failed: bool,
}

impl Recorder {
    /// Opens the file, if a recording is requested.
    ///
    /// # Errors
    /// See [`Writer::create`]; also if stdout is named and is a terminal.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        ensure!(
            !path.is_some_and(files::is_standard) || !io::stdout().is_terminal(),
            "--record -: a recording is not written to a terminal; redirect stdout, or name a file"
        );
        Ok(Self {
            writer: path.map(Writer::create).transpose()?,
            failed: false,
        })
    }

    /// Writes the start of the trace, with the mode of attaching and the filters.
    pub fn begin(&mut self, attached: &str, filters: &Filters) {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let start = Start {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: host.trim_end().to_owned(),
            kernel: kernel::release(),
            attached: attached.to_owned(),
            filters: filter_words(filters).join(" "),
            wall_ns: wall.map_or(0, |since| {
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            }),
            monotonic_ns: clock::monotonic_ns(),
        };
        self.with(|writer| writer.begin(&start));
    }

    /// Writes a connection.
    pub fn connect(&mut self, connect: &Connect) {
        self.with(|writer| writer.connect(connect));
    }

    /// Writes an event of a connection.
    pub fn ended(&mut self, event: &ConnectionEvent) {
        self.with(|writer| writer.ended(event));
    }

    /// Writes a batch that is due. Must be called many times per second.
    pub fn tick(&mut self) {
        self.with(Writer::flush_if_due);
    }

    /// Writes the end of the trace, with the counters of the whole trace.
    pub fn finish(&mut self, kernel_side: &KernelSide) {
        self.with(|writer| {
            writer.finish(|events| End {
                events,
                // The writer knows it.
                ends: 0,
                monotonic_ns: clock::monotonic_ns(),
                kernel_side: kernel_side.clone(),
            })
        });
        self.writer = None;
    }

    /// Returns true if connections are missing in the file because of an error.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    fn with(&mut self, act: impl FnOnce(&mut Writer) -> io::Result<()>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        if let Err(error) = act(writer) {
            let kept = writer.kept();
            say!(
                "connect-trace: --record {}: {error}: the recording has stopped after {kept} connect() call{}; the \
                 report has all",
                printable(writer.path()),
                if kept == 1 { "" } else { "s" },
            );
            self.writer = None;
            self.failed = true;
        }
    }
}
