//! Connections that are made in another way than by connect() of a 64-bit program.

use std::fs;
use std::io::{self, Write as _};

use anyhow::{Context, Result};

use super::io_uring::{Ring, Submission};
use super::listener::Listener;
use super::namespace::in_fresh;
use super::record::{Family, Record};
use super::socket::Socket;
use super::witness::Witness;

/// Case `fast-open`, with neither side asking for cookies: by sendto() with data, and by a connect() that waits for
/// data.
pub(super) fn fast_open(count: usize) -> Result<Vec<Record>> {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_fastopen";
    /// Value for client and server, each without cookies.
    const WITHOUT_COOKIES: &str = "519";
    in_fresh(|| {
        fs::write(SETTING, WITHOUT_COOKIES).with_context(|| format!("writing {SETTING}"))?;
        let mut witness = Witness::new("fast-open")?;
        for family in [Family::V4, Family::V6] {
            let listener = Listener::new(family, 2 * count)?;
            for _ in 0..count {
                let mut socket = Socket::new(family)?;
                witness.connect_by(&mut socket, listener.address(), |fd, to| {
                    let (data, flags) = (b"x", libc::MSG_FASTOPEN);
                    // SAFETY: pointers and lengths are those of `data` and of the address, which outlive the call.
                    let sent = unsafe {
                        libc::sendto(
                            fd,
                            data.as_ptr().cast(),
                            data.len(),
                            flags,
                            to.as_ptr(),
                            to.len(),
                        )
                    };
                    if sent < 0 {
                        Err(io::Error::last_os_error())
                    } else {
                        Ok(())
                    }
                })?;
                witness.hold(socket);

                let mut socket = Socket::new(family)?;
                socket
                    .set(libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
                    .context("setting TCP_FASTOPEN_CONNECT")?;
                witness.connect(&mut socket, listener.address())?;
                // Only this sends the SYN.
                socket.stream().write_all(b"x").context("sending")?;
                witness.hold(socket);
            }
        }
        Ok(witness.into_records())
    })
}

/// Case `io-uring`: in the requesting thread, and in the kernel's thread for it.
pub(super) fn io_uring(count: usize) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for submission in [Submission::ByCaller, Submission::ByThread] {
        let mut ring = Ring::new(submission)?;
        let mut witness = match ring.thread()? {
            Some(tid) => Witness::of_thread("io-uring", tid)?,
            None => Witness::new("io-uring")?,
        };
        let listener = Listener::new(Family::V4, count)?;
        for _ in 0..count {
            let mut socket = Socket::new(Family::V4)?;
            witness.connect_by(&mut socket, listener.address(), |fd, to| {
                ring.connect(fd, to)
            })?;
            witness.hold(socket);
        }
        records.extend(witness.into_records());
    }
    Ok(records)
}

/// Case `compat`: by `int 0x80`, which a 64-bit program can use as a 32-bit program does.
pub(super) fn compat(count: usize) -> Result<Vec<Record>> {
    let listener = Listener::new(Family::V4, count)?;
    let mut witness = Witness::new("compat")?;
    for _ in 0..count {
        let mut socket = Socket::new(Family::V4)?;
        witness.connect_by(&mut socket, listener.address(), compat::connect)?;
        witness.hold(socket);
    }
    Ok(witness.into_records())
}

#[cfg(target_arch = "x86_64")]
mod compat {
    use std::arch::asm;
    use std::io;
    use std::ptr;

    use super::super::socket::RawAddress;

    pub(super) fn connect(fd: libc::c_int, to: &RawAddress) -> io::Result<()> {
        /// Number of connect() among the 32-bit system calls.
        const CONNECT: i64 = 362;
        const PAGE: usize = 4_096;
        // SAFETY: the mapping is new, and no other code uses it.
        let low = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
            libc::mmap(ptr::null_mut(), PAGE, access, kind, -1, 0)
        };
        if low == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let len = to.len() as usize;
        let result: i64;
        // SAFETY: a socket address is shorter than a page; the call reads it there, and keeps all registers except the
        // ones listed. The third argument of a call is in rbx, which the compiler keeps for itself.
        unsafe {
            ptr::copy_nonoverlapping(to.as_ptr().cast::<u8>(), low.cast(), len);
            asm!(
                "xchg rbx, {fd}",
                "int 0x80",
                "xchg rbx, {fd}",
                fd = inout(reg) i64::from(fd) => _,
                inout("rax") CONNECT => result,
                in("rcx") low,
                in("rdx") len,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
            libc::munmap(low, PAGE);
        }
        match result as i32 {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod compat {
    use std::io;

    use super::super::socket::RawAddress;

    pub(super) fn connect(_fd: libc::c_int, _to: &RawAddress) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
