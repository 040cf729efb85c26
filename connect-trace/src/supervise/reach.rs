//! Duplicates of the descriptors of other processes. The processes are held by descriptors of their own (pidfds), which
//! are kept from call to call: a pidfd never refers to another process, and says so when its own has ended.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use super::listener::Listener;
use crate::kernel::process::{pidfd_open, process_of_thread, status_number};

/// Maximum number of threads whose pidfds are kept.
const KEPT: usize = 512;

/// `PIDFD_THREAD` of linux/pidfd.h, from Linux 6.9: opens a thread.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;

/// Reason why the socket of a call is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// The kernel forbids it: ptrace_scope of Yama, a security module, or a process with more privileges.
    Forbidden,
    /// A thread that may have a table of files of its own, on a kernel before 6.9.
    Thread,
    /// The call does not wait any more.
    Gone,
    /// The descriptor is not open: the call fails by itself.
    NotOpen,
}

/// A thread whose descriptors can be duplicated.
struct Thread {
    pidfd: OwnedFd,
    /// The process that the pidfd is of, if it is not of the thread itself.
    leader: Option<libc::pid_t>,
}

/// The threads that have made calls.
#[derive(Default)]
pub(super) struct Reach {
    threads: HashMap<libc::pid_t, Thread>,
    /// Number of seccomp filters of this process and of ours together: more are of the program's own.
    usual_filters: u32,
    /// Processes that have filters of their own.
    filtered: HashSet<libc::pid_t>,
}

impl Reach {
    pub(super) fn new() -> Self {
        Self {
            usual_filters: filters_of("self").unwrap_or(0) + 1,
            ..Self::default()
        }
    }

    /// Returns the number of processes seen so far that have seccomp filters of their own.
    pub(super) fn filtered(&self) -> usize {
        self.filtered.len()
    }

    /// Duplicates a descriptor of the thread that waits for the answer to the notification `id`.
    ///
    /// # Errors
    /// Says why the descriptor is out of reach.
    pub(super) fn duplicate(
        &mut self,
        listener: &Listener,
        id: u64,
        tid: libc::pid_t,
        fd: RawFd,
    ) -> Result<OwnedFd, Unreachable> {
        if let Some(thread) = self.threads.get(&tid) {
            match thread.duplicate(tid, fd) {
                // The thread has ended, and another one has its id.
                Err(Unreachable::Gone) => {
                    self.threads.remove(&tid);
                }
                result => return result,
            }
        }
        if self.threads.len() >= KEPT {
            self.threads.clear();
        }
        let thread = self.open(tid)?;
        // The id of the thread was still its own when it was opened if the call waits now.
        if !listener.is_valid(id) {
            return Err(Unreachable::Gone);
        }
        let duplicate = thread.duplicate(tid, fd);
        self.threads.insert(tid, thread);
        duplicate
    }

    fn open(&mut self, tid: libc::pid_t) -> Result<Thread, Unreachable> {
        if tid == 0 {
            // The process is in a PID namespace that is not below this one.
            return Err(Unreachable::Forbidden);
        }
        let process = |pidfd| Thread {
            pidfd,
            leader: None,
        };
        match pidfd_open(tid.unsigned_abs(), 0) {
            Ok(pidfd) => {
                if filters_of(&tid.to_string()).is_some_and(|filters| filters > self.usual_filters)
                {
                    self.filtered.insert(tid);
                }
                return Ok(process(pidfd));
            }
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                return Err(Unreachable::Gone);
            }
            Err(_) => {}
        }
        if let Ok(pidfd) = pidfd_open(tid.unsigned_abs(), PIDFD_THREAD) {
            return Ok(process(pidfd));
        }
        let leader = process_of_thread(tid.unsigned_abs()).ok_or(Unreachable::Gone)?;
        Ok(Thread {
            pidfd: pidfd_open(leader, 0).map_err(|_| Unreachable::Gone)?,
            leader: Some(leader as libc::pid_t),
        })
    }
}

impl Thread {
    fn duplicate(&self, tid: libc::pid_t, fd: RawFd) -> Result<OwnedFd, Unreachable> {
        if let Some(leader) = self.leader {
            shares_files(leader, tid)?;
        }
        // SAFETY: the call takes numbers.
        let duplicate =
            unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), fd, 0) };
        if duplicate >= 0 {
            // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(duplicate as RawFd) });
        }
        Err(match io::Error::last_os_error().raw_os_error() {
            Some(libc::EBADF) => Unreachable::NotOpen,
            Some(libc::ESRCH) => Unreachable::Gone,
            _ => Unreachable::Forbidden,
        })
    }
}

/// Succeeds if the thread is of the process, and has the same table of files.
fn shares_files(leader: libc::pid_t, tid: libc::pid_t) -> Result<(), Unreachable> {
    /// `KCMP_FILES` of linux/kcmp.h.
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: the call takes numbers; signal 0 is not sent.
    let is_of = unsafe { libc::syscall(libc::SYS_tgkill, leader, tid, 0) };
    if is_of != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) {
        return Err(Unreachable::Gone);
    }
    // SAFETY: the call takes numbers.
    match unsafe { libc::syscall(libc::SYS_kcmp, leader, tid, KCMP_FILES, 0, 0) } {
        0 => Ok(()),
        _ => Err(Unreachable::Thread),
    }
}

/// Returns the number of seccomp filters of a process; `None` before Linux 5.9.
fn filters_of(process: &str) -> Option<u32> {
    status_number(process, "Seccomp_filters:")
}
