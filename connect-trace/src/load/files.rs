//! A table of open files of a thread's own. The limit of open files counts each table, so that threads with
//! one each hold more connections together than one process may.

use std::io;

use anyhow::{Context as _, Result};

/// Gives this thread a table of its own, with standard input, output and error in it and nothing else.
///
/// Descriptors that it opens from then on mean nothing to other threads, nor theirs to it.
///
/// # Errors
/// Where the kernel refuses `close_range` (Linux 5.9).
pub(super) fn own_table() -> Result<()> {
    // SAFETY: the call takes no pointers. What it closes, it closes for this thread alone, which owns none of
    // it: it has just begun.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error())
            .context("cannot give a thread its own table of open files (close_range)");
    }
    Ok(())
}
