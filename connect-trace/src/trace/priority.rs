//! Keeps the daemon reading on a machine that the traced programs keep busy. If its share of the CPU is too small to
//! read the records that they cause, it raises its priority until it has caught up.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The nice value of the highest priority.
const FIRST: libc::c_int = -20;

/// The priority of the calling thread, which must always be the same one.
#[derive(Debug, Default)]
pub(crate) struct Priority {
    /// The original nice value, while the priority is raised.
    before: Option<libc::c_int>,
}

impl Priority {
    /// Raises the priority, or restores it. Without the privilege (`CAP_SYS_NICE`) nothing changes.
    pub(crate) fn set(&mut self, wanted: bool) {
        match (wanted, self.before) {
            (true, None) => match nice().and_then(|before| set_nice(FIRST).map(|()| before)) {
                Ok(before) => {
                    log::debug!("raising the priority of connect-trace (nice -20)");
                    self.before = Some(before);
                }
                Err(error) => log::debug!("cannot raise the priority of connect-trace: {error}"),
            },
            (false, Some(before)) => {
                // Lowering the priority is always allowed.
                match set_nice(before) {
                    Ok(()) => self.before = None,
                    Err(error) => {
                        log::debug!("cannot restore the priority of connect-trace: {error}")
                    }
                }
            }
            _ => {}
        }
    }
}

/// Lets this process raise its priority later, when it has no privilege any more. Returns whether it may.
pub(crate) fn allow_without_privileges() -> bool {
    /// `RLIMIT_NICE` counts from the lowest priority, which is 1.
    const LIMIT: u64 = (20 - FIRST) as u64;
    let limit = getrlimit(Resource::Nice);
    if limit.current.is_none_or(|current| current >= LIMIT) {
        return true;
    }
    let raised = Rlimit {
        current: Some(LIMIT),
        maximum: limit.maximum.map(|most| most.max(LIMIT)),
    };
    setrlimit(Resource::Nice, raised).is_ok()
}

/// Keeps the kernel from making huge pages of this process's memory. `khugepaged`, which makes them, holds the lock of
/// our address space meanwhile, and has the lowest priority: if other threads want the CPU, our next page fault waits
/// for that lock, for many seconds. Children inherit the setting.
pub(crate) fn without_huge_pages() {
    // SAFETY: this option of prctl has no memory effects.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result != 0 {
        log::debug!(
            "huge pages cannot be switched off: {}",
            io::Error::last_os_error()
        );
    }
}

/// Returns the nice value of the calling thread.
fn nice() -> io::Result<libc::c_int> {
    // A nice value may be -1, like an error, so errno decides.
    // SAFETY: errno of the calling thread may be written to, and getpriority has no memory effects.
    let nice = unsafe {
        *libc::__errno_location() = 0;
        libc::getpriority(libc::PRIO_PROCESS, 0)
    };
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(0) {
        Ok(nice)
    } else {
        Err(error)
    }
}

fn set_nice(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: setpriority has no memory effects.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_given_back() {
        // The thread belongs to this test alone.
        let before = nice().unwrap();
        let mut precedence = Priority::default();
        precedence.set(true);
        precedence.set(true);
        let allowed = precedence.before.is_some();
        assert_eq!(nice().unwrap(), if allowed { FIRST } else { before });
        precedence.set(false);
        precedence.set(false);
        assert_eq!(nice().unwrap(), before);
        assert_eq!(precedence.before, None);
    }
}
