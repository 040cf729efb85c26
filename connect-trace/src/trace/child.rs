//! The command that is traced: its process is created before the probes, so that they know its id, and runs once they
//! are attached.

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, PipeWriter, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    },
    process::{ExitCode, ExitStatus},
    ptr, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use crate::term::printable::printable;

/// A command that waits to be started, or runs.
pub(crate) struct Command {
    name: String,
    process: libc::pid_t,
    /// The end of a pipe on which the process waits: closed without a byte, it makes the process exit.
    gate: Option<PipeWriter>,
    /// Pipe through which the process reports why it could not become the command.
    failure: io::PipeReader,
    ended: Option<ExitStatus>,
}

impl Command {
    /// Forks the process that will become the command, with its arguments.
    ///
    /// # Errors
    /// If the process cannot be created, or an argument contains a zero byte.
    pub(crate) fn hold(arguments: &[OsString]) -> Result<Self> {
        // SAFETY: nothing is called in the child.
        unsafe { Self::hold_after(arguments, || {}) }
    }

    /// Forks the process that will become the command, and calls `first` in it at once.
    ///
    /// # Errors
    /// The same as for [`Self::hold`].
    ///
    /// # Safety
    /// `first` runs in the child of a fork: it may call async-signal-safe functions only, and must not panic.
    pub(crate) unsafe fn hold_after(arguments: &[OsString], first: impl FnOnce()) -> Result<Self> {
        let name = arguments.first().context("there is no command")?;
        let name = printable(name).to_string();
        // Everything that the child needs is made before the fork: after it, only async-signal-safe calls are allowed.
        let texts: Vec<CString> = arguments
            .iter()
            .map(|argument| CString::new(argument.as_bytes()))
            .collect::<Result<_, _>>()
            .with_context(|| format!("{name}: an argument contains a zero byte"))?;
        let mut pointers: Vec<*const libc::c_char> =
            texts.iter().map(|text| text.as_ptr()).collect();
        pointers.push(ptr::null());
        let (wait, gate) = io::pipe().context("make a pipe")?;
        let (failure, failed) = io::pipe().context("make a pipe")?;
        // SAFETY: the child calls only async-signal-safe functions, and never returns.
        let process = match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()).context("start a process"),
            // SAFETY: this is the child; the pipes are open in it, and the pointers end with a null.
            0 => unsafe {
                libc::close(gate.as_raw_fd());
                first();
                become_command(wait.as_raw_fd(), failed.as_raw_fd(), &pointers)
            },
            process => process,
        };
        Ok(Self {
            name,
            process,
            gate: Some(gate),
            failure,
            ended: None,
        })
    }

    /// Returns the name of the command, as it was typed.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id.
    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        self.process.unsigned_abs()
    }

    /// Lets the command begin.
    ///
    /// # Errors
    /// If there is no such command, or it cannot be run.
    pub(crate) fn release(&mut self) -> Result<()> {
        if let Some(mut gate) = self.gate.take() {
            gate.write_all(&[1])
                .with_context(|| format!("start {}", self.name))?;
        }
        let mut errno = [0; 4];
        match self.failure.read_exact(&mut errno) {
            // The pipe closes when the process becomes the command.
            Err(_) => Ok(()),
            Ok(()) => {
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                Err(anyhow!("cannot start {}: {error}", self.name))
            }
        }
    }

    /// Returns the exit status, once the command has ended.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.wait(libc::WNOHANG)
                .with_context(|| format!("wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Waits for every child of this process that has ended: the command, and those that it was given by
    /// `PR_SET_CHILD_SUBREAPER`. Returns the ids of the others.
    pub(crate) fn reap(&mut self) -> Vec<libc::pid_t> {
        let mut others = Vec::new();
        loop {
            let mut status = 0;
            // SAFETY: there is room for the status; an id that was waited for is not used again.
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
                ..=0 => return others,
                process if process == self.process => {
                    self.ended = Some(ExitStatus::from_raw(status));
                }
                process => others.push(process),
            }
        }
    }

    /// Waits for the end of the command, but no longer than `longest`.
    ///
    /// # Errors
    /// The same as for [`Self::ended`].
    pub(crate) fn wait_at_most(&mut self, longest: Duration) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(10);
        let start = Instant::now();
        while self.ended()?.is_none() && start.elapsed() < longest {
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn wait(&mut self, options: libc::c_int) -> io::Result<()> {
        let mut status = 0;
        // SAFETY: the process is our own child, which has not been waited for, and there is room for its status.
        match unsafe { libc::waitpid(self.process, &raw mut status, options) } {
            0 => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => self.ended = Some(ExitStatus::from_raw(status)),
        }
        Ok(())
    }

    /// Passes a signal on to the command, except SIGINT by Ctrl-C, which the terminal sends to both.
    pub(crate) fn pass_on(&self, signal: libc::c_int) {
        if self.ended.is_some() || signal == libc::SIGINT && in_foreground() {
            return;
        }
        // SAFETY: no pointers; the child has not been waited for, so the id is still its own.
        if unsafe { libc::kill(self.process, signal) } < 0 {
            log::warn!(
                "cannot pass signal {signal} on to {}: {}",
                self.name,
                io::Error::last_os_error()
            );
        }
    }
}

impl Drop for Command {
    /// Ends a process that was never released; leaves a running command alone.
    fn drop(&mut self) {
        if self.gate.take().is_some() {
            let _ = self.wait(0);
        }
    }
}

/// Ends this process like the command: with its exit status, or by its signal.
pub(crate) fn exit_as(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal() {
        // SAFETY: no pointer but the default handler, and the signal is sent to our own process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    // If the signal does not end this process: the status that a shell would report.
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Returns whether this process is in the foreground of its terminal.
fn in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else {
        return false;
    };
    // SAFETY: no pointers; the descriptor is open.
    unsafe { libc::tcgetpgrp(terminal.as_raw_fd()) == libc::getpgrp() }
}

/// Runs the child: waits for the release, then becomes the command.
///
/// # Safety
/// Call only in the child of a fork, with both descriptors open, and `arguments` ending with a null. Calls only
/// async-signal-safe functions (signal-safety(7)) and never returns.
unsafe fn become_command(
    wait: libc::c_int,
    failed: libc::c_int,
    arguments: &[*const libc::c_char],
) -> ! {
    // SAFETY: the system calls act on our own descriptors and memory.
    unsafe {
        let mut byte = 0_u8;
        let read = loop {
            let read = libc::read(wait, (&raw mut byte).cast(), 1);
            if read >= 0 || *libc::__errno_location() != libc::EINTR {
                break read;
            }
        };
        if read != 1 {
            libc::_exit(0);
        }
        // Rust ignores SIGPIPE in this process; a command expects the default action.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execvp(arguments[0], arguments.as_ptr());
        let errno = *libc::__errno_location();
        libc::write(failed, (&raw const errno).cast(), size_of_val(&errno));
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<ExitStatus> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let mut command = Command::hold(&arguments)?;
        command.release()?;
        loop {
            if let Some(status) = command.ended()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_status_is_that_of_the_command() {
        assert_eq!(run("true").unwrap().code(), Some(0));
        assert_eq!(run("false").unwrap().code(), Some(1));
    }

    #[test]
    fn the_signal_is_that_of_the_command() {
        let arguments = ["sh", "-c", "kill -TERM $$"].map(OsString::from);
        let mut command = Command::hold(&arguments).unwrap();
        command.release().unwrap();
        command.wait(0).unwrap();
        let status = command.ended().unwrap().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let error = run("no-such-command-at-all").unwrap_err().to_string();
        assert!(error.contains("no-such-command-at-all"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn one_that_was_never_released_does_nothing() {
        let file = std::env::temp_dir().join(format!("connect-trace-{}", std::process::id()));
        let arguments = ["touch".into(), file.clone().into_os_string()];
        drop(Command::hold(&arguments).unwrap());
        assert!(!file.exists());
    }
}
