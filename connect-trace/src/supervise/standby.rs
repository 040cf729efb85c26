//! A process that goes on where a supervisor ends: without one, every connect() of the program would fail with ENOSYS.
//!
//! The standby holds the listener too, and shares the memory with the notifications under way. It does nothing while the supervisor
//! lives, and ends with the last process that has the filter.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    listener::{Listener, SLOTS, Slots},
    supervisor::{self, Shared, Work},
};

/// The hidden command that runs [`run`].
const COMMAND: &str = "try-standby";

/// The running program, even if its file was replaced or removed.
const OURSELVES: &str = "/proc/self/exe";

/// Descriptors that the process is started with.
const LISTENER: libc::c_int = 3;
const MEMORY: libc::c_int = 4;

/// The process, as the supervisor knows it. Its stdin closes when the supervisor ends, however it ends.
pub(super) struct Standby {
    pid: libc::pid_t,
    _input: ChildStdin,
}

impl Standby {
    /// Starts the process.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(shared: &Shared) -> Result<Self> {
        let context = || format!("cannot start {OURSELVES} as the standby");
        // Beyond the numbers that they get, so that neither is overwritten.
        let beyond = |fd: libc::c_int| {
            // SAFETY: the call takes numbers.
            match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, MEMORY + 1) } {
                -1 => Err(io::Error::last_os_error()),
                // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
                copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
            }
        };
        let listener = beyond(shared.listener.fd().as_raw_fd()).with_context(context)?;
        let memory = beyond(shared.slots.memory().as_raw_fd()).with_context(context)?;
        let pairs = [
            (listener.as_raw_fd(), LISTENER),
            (memory.as_raw_fd(), MEMORY),
        ];
        let mut command = Command::new(OURSELVES);
        command
            .arg(COMMAND)
            // As an argument, it is there even if the supervisor ends at once.
            .arg(serde_json::to_string(&shared.work)?)
            .stdin(Stdio::piped())
            // A reader of the program's output need not wait for this process.
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: the function calls the kernel only.
        unsafe {
            command.pre_exec(move || {
                for (from, to) in pairs {
                    if libc::dup2(from, to) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                // No signal of the terminal reaches it.
                libc::setsid();
                Ok(())
            })
        };
        let mut child = command.spawn().with_context(context)?;
        let input = child.stdin.take().context("its stdin is a pipe")?;
        Ok(Self {
            pid: child.id().cast_signed(),
            _input: input,
        })
    }

    /// Returns the process id.
    pub(super) fn pid(&self) -> libc::pid_t {
        self.pid
    }
}

/// Waits until the supervisor has ended, and supervises the processes that are left.
///
/// # Errors
/// If it was not started by a supervisor.
pub fn run(work: &str) -> Result<()> {
    const FOREIGN: &str = "connect-trace try starts this process by itself";
    // SAFETY: the name is a text that ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"ct-standby".as_ptr()) };
    let work: Work = serde_json::from_str(work).context(FOREIGN)?;
    // SAFETY: the process was started with these descriptors, which nothing else uses.
    let (listener, memory) = unsafe { (OwnedFd::from_raw_fd(LISTENER), File::from_raw_fd(MEMORY)) };
    let slots = Slots::of(memory).context(FOREIGN)?;
    let shared = Shared::new(work, Listener::new(listener), slots);
    // Nothing is written; an error means that the supervisor has ended as well.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    for slot in 0..SLOTS {
        // A call that does not wait any more needs no answer.
        let _ = supervisor::take_over(&shared, slot);
    }
    supervisor::supervise(shared);
    Ok(())
}
