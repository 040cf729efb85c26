//! One run of the command under supervision.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::ExitStatus,
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

/// A command under supervision.
pub(super) struct Run {
    command: Command,
    supervisor: Supervisor,
    standby: Standby,
}

/// Results of a run.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) counted: Counted,
    /// True if processes of the command still run.
    pub(super) goes_on: bool,
    /// Process id of the standby.
    pub(super) standby: libc::pid_t,
}

impl Run {
    /// Starts the command.
    ///
    /// # Errors
    /// If the kernel refuses the filter, or the command cannot be started.
    pub(super) fn start(arguments: &[OsString], work: Work) -> Result<Self> {
        // Processes that lose their parent become children of this one, which may then use their descriptors
        // (ptrace_scope of Yama).
        // SAFETY: the call takes numbers.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let (filter, expected) = Filter::prepare().context("cannot make a pair of sockets")?;
        // SAFETY: `install` is async-signal-safe.
        let mut command = unsafe { Command::hold_after(arguments, || filter.install())? };
        drop(filter);
        let installed = expected.receive()?;
        if installed.no_new_privs {
            warn_of_setuid(&arguments[0]);
        }
        let slots = Slots::new().context("cannot share memory with the standby")?;
        let shared = Shared::new(work, Listener::new(installed.listener), slots);
        let standby = Standby::start(&shared)?;
        let supervisor = Supervisor::start(shared)?;
        command.release()?;
        Ok(Self {
            command,
            supervisor,
            standby,
        })
    }

    /// Waits for the end of the command, and passes signals on to it.
    ///
    /// # Errors
    /// If a standby that has ended cannot be replaced.
    pub(super) async fn until_its_end(mut self, signals: &mut Signals) -> Result<Ended> {
        let status = loop {
            let others = self.command.reap();
            if let Some(status) = self.command.ended()? {
                break status;
            }
            if others.contains(&self.standby.pid()) {
                self.standby = Standby::start(self.supervisor.shared())?;
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
        };
        let goes_on = self.supervisor.shared().listener.is_in_use();
        Ok(Ended {
            status,
            goes_on,
            standby: self.standby.pid(),
            counted: self.supervisor.stop(),
        })
    }
}

impl Ended {
    /// Returns true if the command ended without a failure.
    pub(super) fn succeeded(&self) -> bool {
        self.status.success() && self.status.signal().is_none()
    }
}

/// Warns if the command would have more privileges than this user, which it does not get under supervision.
fn warn_of_setuid(name: &OsString) {
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
fn path_of(name: &OsString) -> Option<PathBuf> {
    let name = Path::new(name);
    if name.components().count() > 1 {
        return Some(name.to_owned());
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
