//! An io_uring for one call at a time.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libc::{c_int, c_long, c_void};

use super::socket::RawAddress;

/// Constants of linux/io_uring.h, which the libc crate lacks.
const SETUP_SQPOLL: u32 = 2;
const ENTER_GETEVENTS: c_long = 1;
const ENTER_SQ_WAKEUP: c_long = 2;
const OFFSET_SQ_RING: libc::off_t = 0;
const OFFSET_CQ_RING: libc::off_t = 0x800_0000;
const OFFSET_SQES: libc::off_t = 0x1000_0000;
const OP_CONNECT: u8 = 16;

/// Thread that makes the calls.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Submission {
    ByCaller,
    /// A kernel thread in this process (SQPOLL).
    ByThread,
}

/// `struct io_uring_params`
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SubmissionOffsets,
    cq: CompletionOffsets,
}

/// `struct io_sqring_offsets`
#[repr(C)]
#[derive(Default)]
struct SubmissionOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: [u32; 3],
}

/// `struct io_cqring_offsets`
#[repr(C)]
#[derive(Default)]
struct CompletionOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    reserved: [u32; 4],
}

/// `struct io_uring_sqe`
#[repr(C)]
struct Call {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    others: [u64; 5],
}

/// `struct io_uring_cqe`
#[repr(C)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// A ring with room for one call.
pub(super) struct Ring {
    fd: OwnedFd,
    submission: Submission,
    params: Params,
    sq: Mapping,
    cq: Mapping,
    calls: Mapping,
}

impl Ring {
    pub(super) fn new(submission: Submission) -> Result<Self> {
        let mut params = Params::default();
        if submission == Submission::ByThread {
            params.flags = SETUP_SQPOLL;
        }
        // SAFETY: `params` may be written to.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("setting up an io_uring");
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as c_int) };
        let map = |offset| Mapping::new(&fd, offset).context("mapping an io_uring");
        let (sq, cq, calls) = (
            map(OFFSET_SQ_RING)?,
            map(OFFSET_CQ_RING)?,
            map(OFFSET_SQES)?,
        );
        Ok(Self {
            fd,
            submission,
            params,
            sq,
            cq,
            calls,
        })
    }

    /// Returns the thread that makes the calls, if it is not the requesting thread.
    pub(super) fn thread(&self) -> Result<Option<u32>> {
        if self.submission == Submission::ByCaller {
            return Ok(None);
        }
        const PATIENCE: Duration = Duration::from_secs(20);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            for task in fs::read_dir("/proc/self/task")? {
                let task = task?;
                let comm = fs::read_to_string(task.path().join("comm"))?;
                if comm.starts_with("iou-sqp-") {
                    let tid = task.file_name().to_string_lossy().parse();
                    return Ok(Some(tid.context("/proc/self/task")?));
                }
            }
            // The thread gets its name when it runs for the first time.
            thread::sleep(Duration::from_millis(1));
        }
        bail!("this process has no thread iou-sqp-*")
    }

    /// Connects, and waits for the result.
    pub(super) fn connect(&mut self, fd: c_int, to: &RawAddress) -> io::Result<()> {
        let tail = self.sq.word(self.params.sq.tail);
        let at = tail.load(Ordering::Relaxed);
        let call = Call {
            opcode: OP_CONNECT,
            flags: 0,
            priority: 0,
            fd,
            offset: to.len().into(),
            address: to.as_ptr() as u64,
            others: [0; 5],
        };
        // SAFETY: the ring has a single entry, which the kernel does not read before the tail is moved.
        unsafe { self.calls.start.cast::<Call>().write(call) };
        // The ring has one entry: its index is 0, and so is its place in the array.
        self.sq
            .word(self.params.sq.array)
            .store(0, Ordering::Relaxed);
        tail.store(at.wrapping_add(1), Ordering::Release);
        let flags = match self.submission {
            Submission::ByCaller => ENTER_GETEVENTS,
            Submission::ByThread => ENTER_GETEVENTS | ENTER_SQ_WAKEUP,
        };
        let (ring, none) = (self.fd.as_raw_fd(), ptr::null::<c_void>());
        // SAFETY: no mask is passed. `to` outlives the call, because the call waits for the completion.
        let entered =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, 1, 1, flags, none, 0) };
        if entered < 0 {
            return Err(io::Error::last_os_error());
        }
        let head = self.cq.word(self.params.cq.head);
        let at = head.load(Ordering::Relaxed);
        let mask = self
            .cq
            .word(self.params.cq.ring_mask)
            .load(Ordering::Relaxed);
        let place = self.params.cq.cqes as usize + (at & mask) as usize * size_of::<Completion>();
        // SAFETY: the call waited until the kernel had written this completion.
        let result = unsafe { self.cq.start.byte_add(place).cast::<Completion>().read() }.result;
        head.store(at.wrapping_add(1), Ordering::Release);
        if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(())
        }
    }
}

/// A page of a ring, shared with the kernel: one call needs no more.
struct Mapping {
    start: *mut c_void,
}

impl Mapping {
    const BYTES: usize = 4_096;

    fn new(ring: &OwnedFd, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: the mapping is new, and no other code uses it.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                Self::BYTES,
                access,
                kind,
                ring.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start })
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets are of aligned words within the mapping.
        unsafe { &*self.start.byte_add(offset as usize).cast::<AtomicU32>() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and no reference to it is left.
        unsafe { libc::munmap(self.start, Self::BYTES) };
    }
}
