//! The seccomp filter that stops connect() calls of a process and its children, and asks the supervisor about them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
};

use anyhow::{Context as _, Result, bail};
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// `AUDIT_ARCH_X86_64` or `AUDIT_ARCH_AARCH64` of linux/audit.h: the system call numbers that the filter knows.
const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_003e
};

/// Offsets in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Bytes of a message from the process with the filter: an errno, and 1 if it has `no_new_privs`.
const MESSAGE: usize = 5;

/// A filter that is ready to be installed.
pub(super) struct Filter {
    program: Vec<sock_filter>,
    /// The end of a pair of sockets that the listener is sent on.
    to: UnixStream,
}

/// The other end of the pair of sockets, on which the listener arrives.
pub(super) struct Expected(UnixStream);

/// A filter that is in force.
pub(super) struct Installed {
    /// The listener.
    pub(super) listener: OwnedFd,
    /// True if setuid programs run without the privileges of their files.
    pub(super) no_new_privs: bool,
}

impl Filter {
    /// Prepares a filter.
    ///
    /// # Errors
    /// If no pair of sockets can be made.
    pub(super) fn prepare() -> io::Result<(Self, Expected)> {
        let (to, from) = UnixStream::pair()?;
        let program = program();
        Ok((Self { program, to }, Expected(from)))
    }

    /// Installs the filter for the calling thread and its children, and sends the listener.
    ///
    /// Setuid programs keep their privileges if the kernel lets this process have it so (CAP_SYS_ADMIN).
    /// Async-signal-safe: it calls the kernel only.
    pub(super) fn install(&self) {
        let mut no_new_privs = false;
        let mut installed = self.set();
        if matches!(&installed, Err(error) if error.raw_os_error() == Some(libc::EACCES)) {
            no_new_privs = true;
            // SAFETY: the call takes numbers.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            installed = self.set();
        }
        let errno = installed.as_ref().err().and_then(io::Error::raw_os_error);
        let mut message = [0; MESSAGE];
        message[..4].copy_from_slice(&errno.unwrap_or(0).to_ne_bytes());
        message[4] = no_new_privs.into();
        let bytes = [IoSlice::new(&message)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sent: [BorrowedFd<'_>; 1];
        if let Ok(listener) = &installed {
            sent = [listener.as_fd()];
            ancillary.push(SendAncillaryMessage::ScmRights(&sent));
        }
        // If it cannot be sent, the parent finds the end of the stream.
        let _ = sendmsg(&self.to, &bytes, &mut ancillary, SendFlags::NOSIGNAL);
    }

    fn set(&self) -> io::Result<OwnedFd> {
        // The filter protects from nothing, so that the command needs none of the mitigations that some kernels turn on
        // for processes with filters.
        const LISTENER: libc::c_ulong =
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // From 5.19 on, a signal does not interrupt a call that the supervisor has received.
        let result = self.set_with(LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.set_with(LISTENER),
            result => result,
        }
    }

    fn set_with(&self, flags: libc::c_ulong) -> io::Result<OwnedFd> {
        let program = libc::sock_fprog {
            len: self.program.len() as libc::c_ushort,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: the program outlives the call, which copies it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                c_long::from(libc::SECCOMP_SET_MODE_FILTER),
                flags,
                &raw const program,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
    }
}

impl Expected {
    /// Waits for the listener of a filter that a child installs; the child's end must be closed in this process.
    ///
    /// # Errors
    /// If the kernel refused the filter.
    pub(super) fn receive(self) -> Result<Installed> {
        let mut message = [0; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [IoSliceMut::new(&mut message)];
        let received = recvmsg(&self.0, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .context("cannot receive the listener of the seccomp filter")?;
        if received.bytes != MESSAGE {
            bail!("the process of the command ended before it had a seccomp filter");
        }
        let mut listener = None;
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = part {
                listener = descriptors.next();
            }
        }
        let [a, b, c, d, no_new_privs] = message;
        match listener {
            Some(listener) => Ok(Installed {
                listener,
                no_new_privs: no_new_privs != 0,
            }),
            None => Err(refused(i32::from_ne_bytes([a, b, c, d]))),
        }
    }
}

/// Returns the error of a kernel that refused the filter.
fn refused(errno: i32) -> anyhow::Error {
    let error = io::Error::from_raw_os_error(errno);
    let why = match errno {
        libc::EBUSY => {
            ": a supervisor has a listener on this process already, as within another `connect-trace try` or in a \
             container whose runtime supervises system calls; a process can have only one, so run connect-trace \
             outside of it"
        }
        libc::ENOSYS | libc::EINVAL => {
            ": seccomp user notification is available from Linux 5.5, with CONFIG_SECCOMP_FILTER"
        }
        libc::EPERM => ": the seccomp profile of a container may forbid it",
        _ => "",
    };
    anyhow::anyhow!("cannot install a seccomp filter ({error}){why}")
}

/// A system call and how the filter treats it.
enum Rule {
    /// Asks the supervisor.
    Notify(c_long),
    /// Asks the supervisor if the flags, in this argument, contain `MSG_FASTOPEN`: the call connects.
    FastOpen(c_long, u32),
}

/// Returns the program. It leaves system calls of other architectures alone, such as those of 32-bit programs.
fn program() -> Vec<sock_filter> {
    use Rule::{FastOpen, Notify};
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let equals =
        |value, then, otherwise| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise);
    let answer = |value| instruction(BPF_RET | BPF_K, value, 0, 0);
    let mut program = vec![
        load(ARCH),
        equals(ARCHITECTURE, 1, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        load(NUMBER),
    ];
    for rule in [
        Notify(libc::SYS_connect),
        Notify(libc::SYS_io_uring_setup),
        FastOpen(libc::SYS_sendto, 3),
        FastOpen(libc::SYS_sendmsg, 2),
        FastOpen(libc::SYS_sendmmsg, 3),
    ] {
        match rule {
            Notify(number) => program.extend([
                equals(number as u32, 0, 1),
                answer(libc::SECCOMP_RET_USER_NOTIF),
            ]),
            // The lower half of the argument, on a little-endian machine.
            FastOpen(number, argument) => program.extend([
                equals(number as u32, 0, 4),
                load(ARGUMENTS + 8 * argument),
                instruction(BPF_JMP | BPF_JSET | BPF_K, libc::MSG_FASTOPEN as u32, 0, 1),
                answer(libc::SECCOMP_RET_USER_NOTIF),
                answer(libc::SECCOMP_RET_ALLOW),
            ]),
        }
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}
