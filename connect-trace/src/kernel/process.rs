//! A process held by a descriptor (a pidfd), which never refers to another process that gets the same id later.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// A process that existed when it was opened.
pub(crate) struct Process {
    /// The process id, which another process can get once this one has been waited for.
    pub(crate) pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// Opens the process that has this id now.
    ///
    /// # Errors
    /// With `ESRCH` if there is none; with `EINVAL`, or `ENOENT` on newer kernels, if the id is that of a thread which
    /// is not the first of its process.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let fd = pidfd_open(pid, 0)?;
        Ok(Self { pid, fd })
    }

    /// Opens the process that `--pid` asks for.
    ///
    /// # Errors
    /// Says that there is no such process, that it has ended, or which process the thread belongs to.
    pub(crate) fn asked_for(pid: u32) -> Result<Self> {
        match Self::open(pid) {
            Ok(process) if process.has_ended() => bail!(
                "--pid {pid}: this process has ended and makes no more calls; its parent has not waited for it \
                 (a zombie)"
            ),
            Ok(process) => Ok(process),
            Err(error) => match process_of_thread(pid) {
                None => bail!("--pid {pid}: no such process"),
                Some(process) if process != pid => bail!(
                    "--pid {pid}: this is a thread of process {process}; --pid {process} traces all of its threads"
                ),
                Some(_) => {
                    Err(anyhow!(error)).context(format!("--pid {pid}: open it (pidfd_open)"))
                }
            },
        }
    }

    /// Returns whether all threads of the process have ended, even if its parent has not waited for it yet.
    pub(crate) fn has_ended(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer leads to one `pollfd` with an open descriptor; the call does not wait.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }
}

/// Returns whether a process with this id exists and has not ended; true if the kernel refuses to say.
pub(crate) fn is_running(pid: u32) -> bool {
    match Process::open(pid) {
        Ok(process) => !process.has_ended(),
        Err(error) => !matches!(
            error.raw_os_error(),
            Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)
        ),
    }
}

/// Returns the id of the process that a thread belongs to.
pub(crate) fn process_of_thread(tid: u32) -> Option<u32> {
    status_number(&tid.to_string(), "Tgid:")
}

/// Returns a number of `/proc/PROCESS/status`, where the process is an id or `self`; `None` if there is no such process or
/// line.
pub(crate) fn status_number(process: &str, name: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value?.trim().parse().ok()
}

/// Opens a process, or what the flags say.
///
/// # Errors
/// See pidfd_open(2).
pub(crate) fn pidfd_open(pid: u32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, id},
        sync::mpsc,
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_process_has_not_ended_while_it_runs() {
        assert!(!Process::asked_for(id()).unwrap().has_ended());
        assert!(is_running(id()));
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        while !process.has_ended() {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!is_running(child.id()));
        let error = Process::asked_for(child.id()).err().unwrap().to_string();
        assert!(error.contains("has ended"), "{error}");
        child.wait().unwrap();
        assert!(process.has_ended());
        let error = Process::asked_for(child.id()).err().unwrap().to_string();
        assert!(error.contains("no such process"), "{error}");
    }

    #[test]
    fn a_thread_names_its_process() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: the call takes nothing and cannot fail.
            tell.send(unsafe { libc::gettid() }.unsigned_abs()).unwrap();
            let _ = ended.recv();
        });
        let tid = told.recv().unwrap();
        let error = Process::asked_for(tid).err().unwrap().to_string();
        for part in [format!("--pid {tid}: "), format!("--pid {} ", id())] {
            assert!(error.contains(&part), "{part}: {error}");
        }
        assert!(!is_running(tid));
        drop(end);
        thread.join().unwrap();
    }
}
