//! A table of open files for each thread. The limit of open files applies to each table, so threads with
//! separate tables can hold more connections together than the limit of one table allows.

use std::io;

use anyhow::{Context as _, Result};

/// Gives this thread its own table of files, with standard input, output and error in it and nothing else.
///
/// Descriptors that it opens from then on are not valid in other threads, nor theirs in it.
///
/// # Errors
/// If the kernel refuses `close_range` (Linux 5.9).
pub(super) fn own_table() -> Result<()> {
    // SAFETY: the call takes no pointers. It closes descriptors for this thread alone, which has just begun
    // and owns none of them.
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
