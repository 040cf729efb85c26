//! Keeps the daemon reading on a machine that is kept busy by the programs that it watches. Its share of the
//! CPU may not be enough to read what they cause: then it takes precedence until it has caught up.

use std::io;

/// The nice value that precedes every other.
const FIRST: libc::c_int = -20;

/// The precedence of the calling thread, which must always be the same one.
#[derive(Debug, Default)]
pub(crate) struct Priority {
    /// The nice value to go back to, while precedence is taken.
    before: Option<libc::c_int>,
}

impl Priority {
    /// Takes precedence, or gives it back. Who may not (`CAP_SYS_NICE`) stays as it was.
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
                // Lowering it is always allowed.
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

/// Keeps the kernel from making huge pages of this process's memory. `khugepaged`, which does that, holds the
/// lock of our address space meanwhile, and has the lowest precedence of all: where others want the CPU, that
/// stops us at our next page fault, for many seconds. Children inherit it.
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

/// The calling thread's nice value.
fn nice() -> io::Result<libc::c_int> {
    // A nice value may be -1, as an error is: errno tells.
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
        // The thread is this test's own.
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
