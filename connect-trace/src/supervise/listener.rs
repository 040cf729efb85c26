//! The listener of a seccomp filter: notifications are received into memory that the standby shares, and answered.

use std::{
    fs::File,
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
};

use libc::{c_void, seccomp_notif, seccomp_notif_resp};

/// Number of notifications that can be under way at once.
pub(super) const SLOTS: usize = 64;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of linux/seccomp.h, from Linux 6.6: the waiting side runs next on this CPU.
const SYNC_WAKE_UP: u64 = 1;

/// Step of work on a notification, for the standby that has to finish it.
pub(super) mod stage {
    /// Nothing that concerns the program's call was done.
    pub(in super::super) const NONE: u32 = 0;
    /// connect() is being made for a socket that does not block.
    pub(in super::super) const CONNECTING: u32 = 1;
    /// connect() is being made for a socket that blocks, which was told not to.
    pub(in super::super) const CONNECTING_BLOCKING: u32 = 2;
}

/// One notification under way.
#[repr(C)]
pub(super) struct Slot {
    notification: seccomp_notif,
    /// Room for a later kernel's longer notification.
    _room: [u64; 20],
    stage: u32,
}

/// Slots in memory that the supervisor shares with the standby.
pub(super) struct Slots {
    memory: File,
    base: NonNull<Slot>,
}

// SAFETY: the memory belongs to the mapping, which lives as long as this; a slot is used by one thread at a time.
unsafe impl Send for Slots {}
// SAFETY: the same.
unsafe impl Sync for Slots {}

impl Slots {
    /// Makes shared memory with empty slots.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the name is a text that ends with a zero.
        let fd = unsafe { libc::memfd_create(c"connect-trace try".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made the descriptor, and nothing else owns it.
        let memory = unsafe { File::from_raw_fd(fd) };
        memory.set_len((SLOTS * size_of::<Slot>()) as u64)?;
        Self::of(memory)
    }

    /// Maps slots that another process made.
    ///
    /// # Errors
    /// If the memory cannot be mapped.
    pub(super) fn of(memory: File) -> io::Result<Self> {
        // SAFETY: a new mapping of whole slots; numbers are valid whatever the memory holds.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SLOTS * size_of::<Slot>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memory.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, base })
    }

    /// Returns the descriptor of the memory.
    pub(super) fn memory(&self) -> &File {
        &self.memory
    }

    fn slot(&self, index: usize) -> *mut Slot {
        assert!(index < SLOTS);
        // SAFETY: the index is within the mapping.
        unsafe { self.base.as_ptr().add(index) }
    }

    /// Returns the notification in a slot. Its id is 0 if there is none.
    pub(super) fn notification(&self, index: usize) -> seccomp_notif {
        // SAFETY: the slot is mapped; only the thread that has the slot writes it.
        unsafe { ptr::read_volatile(&raw const (*self.slot(index)).notification) }
    }

    /// Returns the step that was reached with the notification in a slot.
    pub(super) fn stage(&self, index: usize) -> u32 {
        // SAFETY: as above.
        unsafe { ptr::read_volatile(&raw const (*self.slot(index)).stage) }
    }

    /// Notes the step that is reached.
    pub(super) fn set_stage(&self, index: usize, stage: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(&raw mut (*self.slot(index)).stage, stage) }
    }

    /// Empties a slot: its notification was answered.
    pub(super) fn clear(&self, index: usize) {
        // SAFETY: as above; zeros are an empty slot.
        unsafe { ptr::write_bytes(self.slot(index), 0, 1) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by us, and nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SLOTS * size_of::<Slot>()) };
    }
}

/// Answer to a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel makes the call.
    Continue,
    /// The call is not made, and returns 0 or this errno.
    Result(i32),
}

/// The listener of a filter.
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Takes a listener, and has the kernel switch to the other side at once, if it can.
    pub(super) fn new(fd: OwnedFd) -> Self {
        // SAFETY: the request takes a number. A kernel that has no such flag refuses it, and wakes as usual.
        unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                SYNC_WAKE_UP,
            )
        };
        Self(fd)
    }

    /// Returns the descriptor.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Waits for a notification. The slot must be empty.
    ///
    /// # Errors
    /// `EINTR` by a signal; `ENOENT` if the call was interrupted meanwhile, or nobody has the filter any more.
    pub(super) fn receive(&self, slots: &Slots, index: usize) -> io::Result<()> {
        self.request(
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            slots.slot(index).cast::<c_void>(),
        )
    }

    /// Answers a notification.
    ///
    /// # Errors
    /// `ENOENT` if the call does not wait for the answer any more.
    pub(super) fn answer(&self, id: u64, answer: Answer) -> io::Result<()> {
        let mut response = seccomp_notif_resp {
            id,
            val: 0,
            error: 0,
            flags: 0,
        };
        match answer {
            Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Result(errno) => response.error = -errno,
        }
        self.request(
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            (&raw mut response).cast::<c_void>(),
        )
    }

    /// Returns true if the call still waits, so that its thread is the one that made it.
    pub(super) fn is_valid(&self, mut id: u64) -> bool {
        self.request(
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            (&raw mut id).cast::<c_void>(),
        )
        .is_ok()
    }

    /// Waits until there is a notification, and returns false once nobody has the filter any more.
    ///
    /// # Errors
    /// `EINTR` by a signal.
    pub(super) fn wait(&self) -> io::Result<bool> {
        Ok(self.poll(-1)? & libc::POLLHUP == 0)
    }

    /// Returns true while a process has the filter.
    pub(super) fn is_in_use(&self) -> bool {
        self.poll(0).is_ok_and(|events| events & libc::POLLHUP == 0)
    }

    fn poll(&self, timeout_ms: libc::c_int) -> io::Result<libc::c_short> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer is that of one pollfd, which outlives the call.
        match unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(poll.revents),
        }
    }

    fn request(&self, request: libc::Ioctl, argument: *mut c_void) -> io::Result<()> {
        // SAFETY: every request has the type of its argument, which outlives the call.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
