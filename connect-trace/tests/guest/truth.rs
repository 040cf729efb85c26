//! The program `truth`: it makes connects and says what each one was.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
};

use anyhow::{Context as _, Result};
use connect_trace_guest::truth::Record;

use crate::process::{Ended, Process};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Runs a case, given as its arguments.
pub fn truth(case: &str) -> Result<Vec<Record>> {
    Truth::start(case)?.end()
}

/// A case that runs.
pub struct Truth {
    process: Process,
    /// It makes no connect before this file exists.
    gate: PathBuf,
    _range: Range,
}

impl Truth {
    /// Starts a case.
    pub fn start(case: &str) -> Result<Self> {
        let held = Self::hold(case)?;
        held.release()?;
        Ok(held)
    }

    /// Starts a case whose connects come after [`release`](Self::release).
    pub fn hold(case: &str) -> Result<Self> {
        let mut command = Command::new("truth");
        command.args(case.split_whitespace());
        Self::hold_command(command)
    }

    /// The same of a command that runs `truth` in some way, and takes more arguments of it.
    pub fn hold_command(mut command: Command) -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let gate = env::temp_dir().join(format!("truth-{}-{number}", process::id()));
        let range = Range::read()?;
        command.arg("--wait-file").arg(&gate);
        Ok(Self {
            process: Process::start(command)?,
            gate,
            _range: range,
        })
    }

    /// Lets the connects begin.
    pub fn release(&self) -> Result<()> {
        fs::write(&self.gate, "").with_context(|| format!("cannot write {}", self.gate.display()))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for its end and reads what it says of each connect().
    pub fn end(self) -> Result<Vec<Record>> {
        Record::parse_report(&self.end_with_text()?.stdout)
    }

    /// Waits for the end of the case `rate`, and reads how many calls it made.
    pub fn calls(self) -> Result<u64> {
        let ended = self.end_with_text()?;
        let mut lines = ended.stdout.lines();
        let calls = lines.find_map(|line| line.strip_prefix("calls\t"));
        let calls = calls.and_then(|calls| calls.parse().ok());
        calls.with_context(|| ended.to_string())
    }

    /// Waits for its end.
    pub fn end_with_text(self) -> Result<Ended> {
        let ended = self.process.end()?.successful()?;
        let _ = fs::remove_file(&self.gate);
        Ok(ended)
    }
}

/// The kernel's range of ports. Dropping it makes the range what it was when it was read: a case may set it.
pub struct Range(String);

impl Range {
    /// Reads it.
    pub fn read() -> Result<Self> {
        fs::read_to_string(RANGE)
            .map(Self)
            .with_context(|| format!("cannot read {RANGE}"))
    }

    /// The last port of the range that was read.
    pub fn high(&self) -> Result<u16> {
        let (_, high) = self.ends()?;
        Ok(high.parse()?)
    }

    /// Makes the kernel's range end with this port.
    pub fn extend_to(&self, high: u16) -> Result<()> {
        let (low, _) = self.ends()?;
        fs::write(RANGE, format!("{low} {high}")).with_context(|| format!("cannot write {RANGE}"))
    }

    fn ends(&self) -> Result<(&str, &str)> {
        let ends = self.0.trim().split_once(char::is_whitespace);
        ends.with_context(|| format!("{RANGE} has {:?}", self.0))
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Err(error) = fs::write(RANGE, &self.0) {
            eprintln!("cannot put {RANGE} back: {error}");
        }
    }
}
