//! The resources of this process, under the names that all exporters share.

use std::{
    fmt, fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};

use super::writer::Writer;
use crate::{kernel::limits, overhead::process_usage::ProcessUsage};

/// The resources that this process uses.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// CPU time since the start.
    pub cpu: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Start of the process.
    pub started: SystemTime,
    /// Number of open files; absent without /proc.
    pub open_files: Option<u64>,
    /// Maximum number of open files; absent if there is none.
    pub most_files: Option<u64>,
}

impl Process {
    /// Reads the resources of this process, which started at this time.
    #[must_use]
    pub fn now(started: SystemTime) -> Self {
        let usage = ProcessUsage::now();
        Self {
            cpu: usage.cpu,
            resident_bytes: usage.resident_bytes,
            started,
            // The folder itself is open while it is read.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64 - 1),
            most_files: limits::most_files(),
        }
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        writer.counter(
            "process_cpu",
            "CPU time of connect-trace, user and system",
            Some(&Unit::Seconds),
            self.cpu.as_secs_f64(),
        )?;
        writer.gauge(
            "process_resident_memory",
            "Resident memory of connect-trace",
            Some(&Unit::Bytes),
            self.resident_bytes as f64,
        )?;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        writer.gauge(
            "process_start_time",
            "Start of connect-trace, since 1970",
            Some(&Unit::Seconds),
            started.as_secs_f64(),
        )?;
        for (name, help, files) in [
            (
                "process_open_fds",
                "Open file descriptors of connect-trace",
                self.open_files,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors of connect-trace",
                self.most_files,
            ),
        ] {
            if let Some(files) = files {
                writer.gauge(name, help, None, files as f64)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        let started = SystemTime::now();
        let files = |process: Process| process.open_files.unwrap();
        let before = files(Process::now(started));
        let opened: Vec<_> = (0..32)
            .map(|_| fs::File::open("/proc/self/limits").unwrap())
            .collect();
        // Other tests open and close files meanwhile.
        assert!(files(Process::now(started)) > before, "{before}");
        drop(opened);
    }
}
