//! The program `truth`, which makes connections and prints the facts of each one.

use std::{
    env, fs,
    path::{Path, PathBuf},
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

/// A running case.
pub struct Truth {
    process: Process,
    /// File that the case waits for before its first connect() call.
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

    /// Starts a case that waits for [`release`](Self::release) before it connects.
    pub fn hold(case: &str) -> Result<Self> {
        let mut command = Command::new("truth");
        command.args(case.split_whitespace());
        Self::hold_command(command)
    }

    /// Starts a command that runs `truth` and accepts more arguments of it, and holds it in the same way.
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

    /// Lets the case connect.
    pub fn release(&self) -> Result<()> {
        fs::write(&self.gate, "").with_context(|| format!("cannot write {}", self.gate.display()))
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for its end and returns the record of each connect().
    pub fn end(self) -> Result<Vec<Record>> {
        Record::parse_report(&self.end_with_text()?.stdout)
    }

    /// Waits for the end of the case `rate`, and returns the number of its calls.
    pub fn calls(self) -> Result<u64> {
        let ended = self.end_with_text()?;
        let mut lines = ended.stdout.lines();
        let calls = lines.find_map(|line| line.strip_prefix("calls\t"));
        let calls = calls.and_then(|calls| calls.parse().ok());
        calls.with_context(|| ended.to_string())
    }

    /// Waits for its end and returns its output.
    pub fn end_with_text(self) -> Result<Ended> {
        let ended = self.process.end()?.successful()?;
        let _ = fs::remove_file(&self.gate);
        Ok(ended)
    }
}

/// The kernel's range of ports, which a case may set. Dropping this value restores the range that was read.
pub struct Range(String);

impl Range {
    /// Reads the range.
    pub fn read() -> Result<Self> {
        fs::read_to_string(RANGE)
            .map(Self)
            .with_context(|| format!("cannot read {RANGE}"))
    }

    /// Returns the last port of the range that was read.
    pub fn high(&self) -> Result<u16> {
        let (_, high) = self.ends()?;
        Ok(high.parse()?)
    }

    /// Makes the kernel's range end with this port.
    pub fn extend_to(&self, high: u16) -> Result<()> {
        let (low, _) = self.ends()?;
        fs::write(RANGE, format!("{low} {high}")).with_context(|| format!("cannot write {RANGE}"))
    }

    /// Sets the kernel's range.
    pub fn set(self, low: u16, high: u16) -> Result<Self> {
        fs::write(RANGE, format!("{low} {high}"))
            .with_context(|| format!("cannot write {RANGE}"))?;
        Ok(self)
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

/// A setting of net.ipv4. Dropping this value restores the text that was read.
pub struct Sysctl {
    path: PathBuf,
    before: String,
}

impl Sysctl {
    /// Sets the setting.
    pub fn set(name: &str, text: &str) -> Result<Self> {
        let path = Path::new("/proc/sys/net/ipv4").join(name);
        let before = fs::read_to_string(&path).with_context(|| name.to_owned())?;
        fs::write(&path, text).with_context(|| format!("cannot set {name} to {text}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!("cannot put {} back: {error}", self.path.display());
        }
    }
}
