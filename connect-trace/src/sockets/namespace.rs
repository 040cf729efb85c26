//! Network namespaces other than that of this process.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    thread,
};

/// Returns the inode number of a network namespace, given by its file.
///
/// # Errors
/// If the file cannot be examined.
pub(crate) fn inode(namespace: &File) -> io::Result<u32> {
    // The numbers have 32 bits in the kernel, too.
    Ok(namespace.metadata()?.ino() as u32)
}

/// Calls a function in a network namespace, in a thread of its own: only that thread enters it.
///
/// # Errors
/// If the namespace cannot be entered, which takes root.
pub(crate) fn within<T: Send>(namespace: &File, call: impl FnOnce() -> T + Send) -> io::Result<T> {
    let entered = || {
        // SAFETY: the call takes numbers.
        if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(call())
    };
    thread::scope(|scope| {
        let helper = thread::Builder::new().spawn_scoped(scope, entered)?;
        helper
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
