//! A small process that outlives the daemon by a moment and removes the events in tracefs, which the kernel would keep
//! even after `kill -9`.
//!
//! The janitor waits for the end of a pipe whose other end only the daemon holds, so it acts no matter how the daemon ends.
//! Nothing else removes the events of this run, so every run tests it.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use crate::kernel::sandbox::{give_up_all, no_files};

/// Number of attempts to remove an event while it is still in use, and the pause between them.
const TRIES: u32 = 200;
static PAUSE: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// The janitor process. Dropping this value ends the pipe and waits until the process has removed the events.
pub(crate) struct Janitor {
    pipe: Option<OwnedFd>,
    process: libc::pid_t,
}

impl Janitor {
    /// Forks the process. When it acts, it writes each of the commands to `file`; until then it holds the file open
    /// with the locks that are on it.
    pub(crate) fn spawn(file: &File, commands: impl Iterator<Item = String>) -> io::Result<Self> {
        // Everything that the child needs is made before the fork: after it, in a process that had threads, only
        // async-signal-safe calls are allowed.
        let commands: Vec<String> = commands.collect();
        let rules = no_files();
        let rules = rules.as_ref().map(OwnedFd::as_raw_fd);
        let mut ends = [0; 2];
        // SAFETY: the array has room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptors are new, and nothing else owns them.
        let (read, write) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // SAFETY: the child calls only async-signal-safe functions, and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: this is the child, in which the end of the pipe and the file are open.
            0 => unsafe {
                // The file is open: writing to it takes no privilege.
                give_up_all(rules);
                wait_and_remove(ends[0], file.as_raw_fd(), &commands)
            },
            process => {
                drop(read);
                Ok(Self {
                    pipe: Some(write),
                    process,
                })
            }
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.pipe = None;
        let mut status = 0;
        // SAFETY: the process is our own child, and there is room for its status.
        while unsafe { libc::waitpid(self.process, &raw mut status, 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        if status != 0 {
            log::warn!("return events could not be removed (status {status}): see kprobe_events");
        }
    }
}

/// Runs the child: waits for the end of the pipe, then removes the events.
///
/// # Safety
/// Call only in the child of a fork, with `pipe` open for reading and `file` for writing. Calls only async-signal-safe
/// functions (signal-safety(7)) and never returns.
unsafe fn wait_and_remove(pipe: libc::c_int, file: libc::c_int, commands: &[String]) -> ! {
    const FILE: libc::c_int = 1;
    // SAFETY: the system calls act on our own descriptors and memory.
    unsafe {
        // Ctrl-C or a service manager's SIGTERM ends the daemon first, and with it the pipe.
        libc::setsid();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
        // Closes everything inherited from the daemon, above all its end of the pipe and its perf events.
        libc::dup2(pipe, 0);
        libc::dup2(file, FILE);
        libc::syscall(libc::SYS_close_range, FILE + 1, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"ct-janitor".as_ptr());

        let mut byte = 0_u8;
        while libc::read(0, (&raw mut byte).cast(), 1) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        let mut failed = 0;
        for command in commands {
            failed |= libc::c_int::from(!remove(FILE, command));
        }
        libc::_exit(failed)
    }
}

/// Writes one command, and repeats it while the kernel reports the event as busy.
///
/// # Safety
/// The same conditions as for [`wait_and_remove`].
unsafe fn remove(file: libc::c_int, command: &str) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the buffer has the given length.
        let written = unsafe { libc::write(file, command.as_ptr().cast(), command.len()) };
        // SAFETY: every thread has an errno.
        let errno = unsafe { *libc::__errno_location() };
        // ENOENT: the event may never have been created.
        if written >= 0 || errno == libc::ENOENT {
            return true;
        }
        if errno != libc::EBUSY {
            return false;
        }
        // SAFETY: the remainder is not asked for, so its pointer may be null.
        unsafe { libc::nanosleep(&raw const PAUSE, ptr::null_mut()) };
    }
    false
}
