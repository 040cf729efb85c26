//! A separate network namespace for a thread: only loopback, the kernel's default settings, and all ports free.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result};

use super::socket::check;

/// Runs `work` on a thread that has its own network namespace. Threads started by it share the namespace.
pub(super) fn in_fresh<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter_fresh()?;
            work()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread to a new network namespace.
pub(super) fn enter_fresh() -> Result<()> {
    // SAFETY: the call takes no pointers, and moves only this thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
        .context("making a network namespace (it takes root)")?;
    raise_loopback().context("raising lo in a network namespace")
}

fn raise_loopback() -> Result<()> {
    // Any socket will do; this one needs no port.
    let socket: OwnedFd = std::os::unix::net::UnixDatagram::unbound()?.into();
    // SAFETY: all of an ifreq's fields are plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    let set_flags = libc::SIOCSIFFLAGS as libc::Ioctl;
    // SAFETY: the request is an ifreq, which is what SIOCSIFFLAGS reads, and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), set_flags, &raw const request) })?;
    Ok(())
}
