//! A program that a test runs in the background, with a time limit for waiting.

use std::{
    env, fmt,
    io::Read,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Time limit for each wait in a test; never reached, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(10);

/// Repeats `answer` until it returns a value.
pub fn until<T>(what: &str, mut answer: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = answer()? {
            return Ok(answer);
        }
        ensure!(
            Instant::now() < end,
            "waited {} s in vain until {what}",
            LIMIT.as_secs()
        );
        thread::sleep(PAUSE);
    }
}

/// Returns the path of a program.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").context("there is no PATH")?;
    let mut found = env::split_paths(&path).map(|folder| folder.join(name));
    found
        .find(|path| path.exists())
        .with_context(|| format!("{name} is not on the PATH"))
}

/// A running program, killed on drop.
pub struct Process {
    line: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// Starts a program with its output piped to the test.
    pub fn start(mut command: Command) -> Result<Self> {
        let line = format!("{command:?}").replace('"', "");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {line}"))?;
        let stdout = Output::of(child.stdout.take().context("piped above")?);
        let stderr = Output::of(child.stderr.take().context("piped above")?);
        Ok(Self {
            line,
            child,
            stdout,
            stderr,
        })
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its standard error contains `text`.
    pub fn wait_for_stderr(&mut self, text: &str) -> Result<()> {
        let Self {
            line,
            child,
            stderr,
            ..
        } = self;
        until(&format!("{line} says {text:?}"), || {
            // Check for the end first: output written before the end is then read after this check.
            let status = child.try_wait()?;
            let said = stderr.text();
            if said.contains(text) {
                return Ok(Some(()));
            }
            if let Some(status) = status
                && stderr.is_complete()
            {
                bail!("{line} ended with {status} and did not say {text:?}: {said}");
            }
            Ok(None)
        })
    }

    /// Returns its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Returns its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        let pid = libc::pid_t::try_from(self.pid())?;
        // SAFETY: the call takes no pointers, and the child has not been waited for.
        let result = unsafe { libc::kill(pid, signal) };
        ensure!(
            result == 0,
            "cannot send signal {signal} to {}: {}",
            self.line,
            std::io::Error::last_os_error()
        );
        Ok(())
    }

    /// Returns true if it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<Ended> {
        let Self {
            line,
            child,
            stdout,
            stderr,
        } = &mut self;
        let status = until(&format!("{line} ends"), || {
            let status = child.try_wait()?;
            Ok(status.filter(|_| stdout.is_complete() && stderr.is_complete()))
        })?;
        Ok(Ended {
            line: line.clone(),
            status,
            stdout: stdout.text(),
            stderr: stderr.text(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reader of a pipe.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let more = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut piece) {
                more.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&piece[..length]);
            }
        });
        Self { bytes, reader }
    }

    fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A program that has ended. Its text form is all of its output, for messages.
pub struct Ended {
    line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Returns this value, or an error unless the program succeeded.
    pub fn successful(self) -> Result<Self> {
        ensure!(self.status.success(), "{self}");
        Ok(self)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} ended with {}\nstdout:\n{}\nstderr:\n{}",
            self.line, self.status, self.stdout, self.stderr
        )
    }
}
