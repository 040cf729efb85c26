//! One run of the command, under supervision or not.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    counts::Counted,
    filter::Filter,
    listener::{Listener, Slots},
    standby::Standby,
    supervisor::{Shared, Supervisor, Work},
};
use crate::{
    term::printable::printable,
    trace::{child::Command, signals::Signals},
};

/// A command that runs.
pub(super) struct Run {
    command: Command,
    supervision: Option<Supervision>,
    started: Instant,
}

struct Supervision {
    supervisor: Supervisor,
    standby: Standby,
}

/// Results of a run.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Duration of the whole command.
    pub(super) took: Duration,
    /// Counts of the supervision, if there was one.
    pub(super) counted: Option<Counted>,
    /// Process id of the standby, if processes of the command still run under supervision.
    pub(super) goes_on: Option<libc::pid_t>,
}

impl Run {
    /// Starts the command; without `work`, without supervision.
    ///
    /// # Errors
    /// If the kernel refuses the filter, or the command cannot be started.
    pub(super) fn start(arguments: &[OsString], work: Option<Work>) -> Result<Self> {
        // SAFETY: nothing is called in the child.
        unsafe { Self::start_after(arguments, work, || {}) }
    }

    /// Starts the command, and calls `first` in its process at once.
    ///
    /// # Errors
    /// The same as for [`Self::start`].
    ///
    /// # Safety
    /// `first` may call async-signal-safe functions only.
    pub(super) unsafe fn start_after(
        arguments: &[OsString],
        work: Option<Work>,
        first: impl FnOnce(),
    ) -> Result<Self> {
        let (mut command, supervision) = match work {
            // SAFETY: by the contract of this function.
            None => (unsafe { Command::hold_after(arguments, first)? }, None),
            Some(work) => {
                // SAFETY: by the contract of this function.
                let (command, supervision) = unsafe { Supervision::start(arguments, work, first)? };
                (command, Some(supervision))
            }
        };
        let started = Instant::now();
        command.release()?;
        Ok(Self {
            command,
            supervision,
            started,
        })
    }

    /// Waits for the end of the command, and passes signals on to it.
    ///
    /// # Errors
    /// If a standby that has ended cannot be replaced.
    pub(super) async fn until_its_end(mut self, signals: &mut Signals) -> Result<Ended> {
        loop {
            let others = self.command.reap();
            if let Some(status) = self.command.ended()? {
                return Ok(self.end(status));
            }
            if let Some(supervision) = &mut self.supervision
                && others.contains(&supervision.standby.pid())
            {
                supervision.standby = Standby::start(supervision.supervisor.shared())?;
                log::warn!("the standby has ended, and was started again");
            }
            let signal = tokio::select! {
                biased;
                _ = signals.interrupt.recv() => libc::SIGINT,
                _ = signals.terminate.recv() => libc::SIGTERM,
                _ = signals.hangup.recv() => libc::SIGHUP,
                _ = signals.child.recv() => continue,
            };
            self.command.pass_on(signal);
        }
    }

    /// Waits for the end of a command that ends soon.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub(super) fn wait(mut self) -> Result<Ended> {
        loop {
            self.command.wait_at_most(Duration::from_secs(1))?;
            if let Some(status) = self.command.ended()? {
                return Ok(self.end(status));
            }
        }
    }

    fn end(self, status: ExitStatus) -> Ended {
        let took = self.started.elapsed();
        let (mut counted, mut goes_on) = (None, None);
        if let Some(Supervision {
            supervisor,
            standby,
        }) = self.supervision
        {
            let is_in_use = supervisor.shared().listener.is_in_use();
            counted = Some(supervisor.stop());
            goes_on = is_in_use.then_some(standby.pid());
        }
        Ended {
            status,
            took,
            counted,
            goes_on,
        }
    }
}

impl Supervision {
    /// Forks the process of the command, and begins to answer for it.
    ///
    /// # Safety
    /// `first` may call async-signal-safe functions only.
    unsafe fn start(
        arguments: &[OsString],
        work: Work,
        first: impl FnOnce(),
    ) -> Result<(Command, Self)> {
        // Processes that lose their parent become children of this one, which may then use their descriptors
        // (kernel.yama.ptrace_scope).
        // SAFETY: the call takes numbers.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let (filter, expected) = Filter::prepare().context("cannot make a pair of sockets")?;
        let first = || {
            first();
            filter.install();
        };
        // SAFETY: `install` is async-signal-safe, and `first` by the contract of this function.
        let command = unsafe { Command::hold_after(arguments, first)? };
        drop(filter);
        let installed = expected.receive()?;
        if installed.no_new_privs {
            warn_of_setuid(&arguments[0]);
        }
        let slots = Slots::new().context("cannot share memory with the standby")?;
        let shared = Shared::new(work, Listener::new(installed.listener), slots);
        let standby = Standby::start(&shared)?;
        let supervisor = Supervisor::start(shared)?;
        let supervision = Self {
            supervisor,
            standby,
        };
        Ok((command, supervision))
    }
}

/// Warns if the command would have more privileges than this user, which it does not get under supervision.
fn warn_of_setuid(name: &OsStr) {
    const SETUID_OR_SETGID: u32 = 0o6000;
    let Some(path) = path_of(name) else {
        return;
    };
    let mode = fs::metadata(&path).map_or(0, |file| file.permissions().mode());
    if mode & SETUID_OR_SETGID != 0 {
        log::warn!(
            "{} is a setuid or setgid program and runs without the privileges of its file, because a seccomp filter \
             without root needs no_new_privs; run connect-trace as root",
            printable(&path)
        );
    }
}

/// Returns the file of a command, as execvp(3) finds it.
fn path_of(name: &OsStr) -> Option<PathBuf> {
    let name = Path::new(name);
    if name.components().count() > 1 {
        return Some(name.to_owned());
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
