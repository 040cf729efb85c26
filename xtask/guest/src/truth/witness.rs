//! The thread that makes the connect() calls: knows its own ids and namespaces, and keeps a record of each call. Also
//! decides the expected result of each call on the kernel's side.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

use super::record::{Family, Outcome, Record};
use super::socket::{Attempt, RawAddress, Socket, monotonic_ns};

/// The connections of a thread. Must be created on the thread itself.
pub(super) struct Witness {
    case: &'static str,
    pid: u32,
    tid: u32,
    netns: u64,
    cgroup: Option<u64>,
    uid: u32,
    comm: String,
    records: Vec<Record>,
    held: Vec<Socket>,
}

impl Witness {
    pub(super) fn new(case: &'static str) -> Result<Self> {
        // SAFETY: the call has no arguments and cannot fail.
        Self::of_thread(case, unsafe { libc::gettid() } as u32)
    }

    /// Returns the same for another thread of the process, which makes the calls for this one.
    pub(super) fn of_thread(case: &'static str, tid: u32) -> Result<Self> {
        let netns = "/proc/thread-self/ns/net";
        Ok(Self {
            case,
            pid: std::process::id(),
            tid,
            netns: fs::metadata(netns)
                .with_context(|| format!("reading the thread's network namespace, {netns}"))?
                .ino(),
            cgroup: cgroup(),
            // SAFETY: the call has no arguments and cannot fail.
            uid: unsafe { libc::getuid() },
            comm: fs::read_to_string(format!("/proc/self/task/{tid}/comm"))
                .context("reading the thread's name")?
                .trim_end()
                .to_owned(),
            records: Vec::new(),
            held: Vec::new(),
        })
    }

    /// Calls connect() and keeps its record.
    pub(super) fn connect(&mut self, socket: &mut Socket, to: SocketAddr) -> Result<&Record> {
        let attempt = socket.connect(to);
        self.keep(socket, to, &attempt)
    }

    /// Connects in another way than by connect() and keeps the record.
    pub(super) fn connect_by(
        &mut self,
        socket: &mut Socket,
        to: SocketAddr,
        call: impl FnOnce(libc::c_int, &RawAddress) -> io::Result<()>,
    ) -> Result<&Record> {
        let attempt = socket.connect_by(to, call);
        self.keep(socket, to, &attempt)
    }

    fn keep(&mut self, socket: &Socket, to: SocketAddr, attempt: &Attempt) -> Result<&Record> {
        let mut record = self.unfinished(socket, to, attempt.start_ns);
        let (kernel_errno, enters_search) = kernel_side(attempt);
        record.outcome = Some(Outcome {
            end_ns: attempt.end_ns,
            errno: attempt.errno,
            kernel_errno,
            enters_search,
            local: socket.local()?,
        });
        Ok(self.records.push_mut(record))
    }

    /// Calls connect() on a fresh socket `count` times and leaves the sockets open. They are reset at the end: of a
    /// thousand that both ends close at once, some stay in FIN_WAIT2 for a minute.
    pub(super) fn connect_and_hold(
        &mut self,
        family: Family,
        count: usize,
        to: SocketAddr,
    ) -> Result<()> {
        for _ in 0..count {
            let mut socket = Socket::new(family)?;
            self.connect(&mut socket, to)?;
            socket.reset_on_close()?;
            self.hold(socket);
        }
        Ok(())
    }

    /// Leaves a socket open until the records are taken.
    pub(super) fn hold(&mut self, socket: Socket) {
        self.held.push(socket);
    }

    /// Returns the record of a connect() that is about to be made.
    pub(super) fn begin(&self, socket: &Socket, to: SocketAddr) -> Record {
        self.unfinished(socket, to, monotonic_ns())
    }

    /// Returns the records, in the order of the calls. Closes the sockets.
    pub(super) fn into_records(self) -> Vec<Record> {
        self.records
    }

    fn unfinished(&self, socket: &Socket, to: SocketAddr, start_ns: u64) -> Record {
        Record {
            case: self.case.into(),
            pid: self.pid,
            tid: self.tid,
            family: socket.family(),
            start_ns,
            remote: to,
            netns: self.netns,
            cgroup: self.cgroup,
            uid: self.uid,
            comm: self.comm.clone(),
            explicit: socket.explicit(),
            outcome: None,
        }
    }
}

/// Returns the expected answer of TCP's connect function, if it is called at all, and true if the call reaches the port
/// search.
fn kernel_side(attempt: &Attempt) -> (Option<i32>, bool) {
    match attempt.errno {
        _ if !attempt.reaches_tcp => (None, false),
        // The SYN is sent in all these cases: its result is known only after the function has returned.
        0 | libc::EINPROGRESS | libc::ECONNREFUSED | libc::ETIMEDOUT => (Some(0), true),
        libc::EADDRNOTAVAIL => (Some(libc::EADDRNOTAVAIL), true),
        // No route, or an invalid address: the function answers before it needs a port.
        errno => (Some(errno), false),
    }
}

/// Returns the id of the thread's cgroup in the version 2 hierarchy, which is the inode of its directory, or `None` if
/// that hierarchy is not mounted in its usual place.
fn cgroup() -> Option<u64> {
    const ROOT: &str = "/sys/fs/cgroup";
    // Only version 2 has this file, and only at and below its mount point.
    fs::metadata(format!("{ROOT}/cgroup.controllers")).ok()?;
    let memberships = fs::read_to_string("/proc/thread-self/cgroup").ok()?;
    let path = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?;
    Some(fs::metadata(format!("{ROOT}{path}")).ok()?.ino())
}
