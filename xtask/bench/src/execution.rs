//! QEMU's log of the instructions that a guest executes. QEMU's monitor switches it on and off while the guest runs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use xtask::guest::RunFolder;

/// Time limit for a log; one of a hundred megabytes takes some seconds.
const RECORD_TIME: Duration = Duration::from_secs(180);

/// Time limit for an answer of QEMU, which comes at once unless the machine is busy.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Command that makes QEMU translate each instruction alone: since version 8.1, and before.
const ONE_AT_A_TIME: [&str; 2] = ["one-insn-per-tb", "singlestep"];

/// The log and the monitor of one guest. Their folder is removed on drop.
pub(crate) struct ExecutionLog {
    folder: RunFolder,
}

impl ExecutionLog {
    /// Creates the folder for one guest, which must be started with [`ExecutionLog::arguments`].
    pub(crate) fn create() -> Result<Self> {
        Ok(Self {
            folder: RunFolder::create()?,
        })
    }

    /// Returns the arguments for QEMU.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut monitor = OsString::from("unix:");
        monitor.push(self.monitor());
        monitor.push(",server=on,wait=off");
        vec!["-qmp".into(), monitor]
    }

    fn monitor(&self) -> PathBuf {
        self.folder.path().join("monitor")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("execution.log")
    }

    /// Logs the executed instructions of the guest from now on until the log has `bytes`, and passes it to `read`. The
    /// guest stands still meanwhile, and goes on without a log. The last line may be incomplete.
    ///
    /// # Errors
    /// If QEMU does not log, or `read` fails.
    pub(crate) fn record<T>(
        &self,
        bytes: u64,
        read: impl FnOnce(&mut dyn BufRead) -> Result<T>,
    ) -> Result<T> {
        let log = self.log();
        let mut monitor = Monitor::connect(&self.monitor())?;
        monitor.say(&format!("logfile \"{}\"", log.display()))?;
        // If several instructions are translated together, only the first is logged.
        monitor.execute("stop", &json!({}))?;
        monitor.one_at_a_time(true)?;
        monitor.say("log exec,nochain")?;
        monitor.execute("cont", &json!({}))?;
        let waited = wait_for_size(&log, bytes);
        monitor.execute("stop", &json!({}))?;
        monitor.say("log none")?;
        monitor.one_at_a_time(false)?;
        // Log to another file, so that QEMU writes this one out and closes it.
        monitor.say("logfile /dev/null")?;
        waited?;
        let mut file = BufReader::new(
            File::open(&log).with_context(|| format!("cannot read {}", log.display()))?,
        );
        // The log is large: remove it right after reading, even after an error.
        fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
        let value = read(&mut file)?;
        monitor.execute("cont", &json!({}))?;
        Ok(value)
    }
}

fn wait_for_size(log: &Path, bytes: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        // QEMU creates the file when it first writes.
        let size = fs::metadata(log).map_or(0, |metadata| metadata.len());
        if size >= bytes {
            return Ok(());
        }
        if begin.elapsed() > RECORD_TIME {
            bail!(
                "within {} s QEMU logged {size} bytes of what the guest executes, not {bytes}",
                RECORD_TIME.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A connection to QEMU's monitor, by its line-based JSON protocol.
struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_TIME))?;
                Ok(stream)
            })
            .with_context(|| format!("cannot connect to QEMU's monitor, {}", path.display()))?;
        let mut monitor = Self {
            lines: BufReader::new(stream),
        };
        monitor.receive()?; // Its greeting.
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn one_at_a_time(&mut self, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        let mut refusal = None;
        for name in ONE_AT_A_TIME {
            match self.say(&format!("{name} {state}")) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends a command as a person would type it; QEMU answers nothing if it understands the command.
    fn say(&mut self, command: &str) -> Result<()> {
        let arguments = json!({ "command-line": command });
        let answer = self.execute("human-monitor-command", &arguments)?;
        match answer.as_str().map(str::trim) {
            Some("") => Ok(()),
            _ => bail!("QEMU's monitor answers `{command}` with {answer}"),
        }
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{line}")
            .with_context(|| format!("cannot send `{command}` to QEMU's monitor"))?;
        loop {
            let mut answer = self.receive()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU's monitor refuses `{command}`: {error}");
            }
            // All other messages are events.
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self
            .lines
            .read_line(&mut line)
            .context("QEMU's monitor does not answer")?;
        if length == 0 {
            bail!("QEMU has ended and its monitor with it");
        }
        serde_json::from_str(&line)
            .with_context(|| format!("what QEMU's monitor says is no JSON: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use xtask::stdout::Refused;

    /// Returns a monitor that gives these answers to the lines that it gets, after its greeting.
    fn monitor(
        answers: &'static [&'static str],
    ) -> (RunFolder, PathBuf, thread::JoinHandle<Vec<String>>) {
        let folder = RunFolder::create().unwrap();
        let path = folder.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            writeln!(stream.get_mut(), "{{\"QMP\": {{}}}}").unwrap();
            answers
                .iter()
                .map(|answer| {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    writeln!(stream.get_mut(), "{answer}").unwrap();
                    line
                })
                .collect()
        });
        (folder, path, thread)
    }

    #[test]
    fn events_between_a_command_and_its_answer_are_passed_over() {
        let (_folder, path, thread) = monitor(&[
            "{\"return\": {}}",
            "{\"event\": \"STOP\"}\n{\"return\": \"\"}",
        ]);
        let mut monitor = Monitor::connect(&path).unwrap();
        monitor.say("log none").unwrap();
        assert!(thread.join().unwrap()[1].contains("\"command-line\":\"log none\""));
    }

    #[test]
    fn an_older_name_of_a_command_is_tried_where_the_newer_is_unknown() {
        let (_folder, path, thread) = monitor(&[
            "{\"return\": {}}",
            "{\"return\": \"unknown command: 'one-insn-per-tb'\\r\\n\"}",
            "{\"return\": \"\"}",
        ]);
        let mut monitor = Monitor::connect(&path).unwrap();
        monitor.one_at_a_time(true).unwrap();
        assert!(thread.join().unwrap()[2].contains("singlestep on"));
    }

    #[test]
    fn a_machine_that_dies_is_an_error_that_is_told() {
        let (_folder, path, thread) = monitor(&["{\"return\": {}}"]);
        let mut monitor = Monitor::connect(&path).unwrap();
        thread.join().unwrap();
        let error = monitor.say("log none").unwrap_err();
        assert!(format!("{error:#}").contains("QEMU's monitor"), "{error:#}");
        // Otherwise the command would end without a message, as if the reader of its output had gone.
        assert!(!Refused::is_closed(&error));
    }

    #[test]
    fn what_the_monitor_refuses_is_an_error_that_says_why() {
        let (_folder, path, _thread) =
            monitor(&["{\"return\": {}}", "{\"error\": {\"desc\": \"not now\"}}"]);
        let mut monitor = Monitor::connect(&path).unwrap();
        let error = monitor.say("log none").unwrap_err().to_string();
        assert!(error.contains("not now"), "{error}");
    }
}
