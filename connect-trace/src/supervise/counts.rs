//! Counts of the calls that a supervisor was asked about.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::reach::Unreachable;

/// Reason why a socket was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftAlone {
    /// Neither TCP, nor UDP with `addresses`.
    Protocol,
    /// The socket has a port: the program has bound it, or has called connect() on it before.
    Port,
    /// The program has bound an address.
    Address,
    /// The program has set its `IP_LOCAL_PORT_RANGE`.
    OwnRange,
    /// None of the source addresses is of the destination's family, or reaches it.
    Destination,
    /// The port range of its network namespace cannot be read.
    Namespace,
    /// The kernel does not give the supervisor the program's descriptors.
    Forbidden,
    /// A thread that may have descriptors of its own, before Linux 6.9.
    Thread,
    /// The kernel refused the option or the address.
    Refused,
    /// `default`.
    Unchanged,
}

impl LeftAlone {
    /// All reasons that are reported, in the order of the report, each with its name in JSON and its words.
    pub(super) const TOLD: [(Self, &'static str, &'static str); 9] = [
        (Self::Protocol, "protocol", "not TCP"),
        (Self::Port, "port", "with a port already"),
        (
            Self::Address,
            "address",
            "with an address of the program's own",
        ),
        (
            Self::OwnRange,
            "own_range",
            "with an IP_LOCAL_PORT_RANGE of the program's own",
        ),
        (
            Self::Destination,
            "destination",
            "to a destination that no address of --addresses reaches",
        ),
        (
            Self::Namespace,
            "namespace",
            "in a network namespace whose port range cannot be read",
        ),
        (
            Self::Forbidden,
            "forbidden",
            "out of reach: the kernel does not let this user have descriptors of the process (kernel.yama.ptrace_scope, \
             a security module, a container's seccomp profile, or a process with more privileges)",
        ),
        (
            Self::Thread,
            "thread",
            "by threads that may have descriptors of their own (before Linux 6.9)",
        ),
        (Self::Refused, "refused", "refused by the kernel"),
    ];
}

/// Result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// The strategy was carried out.
    Set,
    /// The socket was left alone.
    Left(LeftAlone),
    /// The call fails by itself, or is on a socket that is connecting or connected already.
    NotCounted,
    /// `io_uring_setup`, whose connections are not seen.
    IoUring,
}

impl From<Unreachable> for Done {
    fn from(why: Unreachable) -> Self {
        match why {
            Unreachable::Forbidden => Self::Left(LeftAlone::Forbidden),
            Unreachable::Thread => Self::Left(LeftAlone::Thread),
            Unreachable::Gone | Unreachable::NotOpen => Self::NotCounted,
        }
    }
}

/// Counts while the program runs.
#[derive(Default)]
pub(super) struct Counts {
    set: AtomicU64,
    left: [AtomicU64; LeftAlone::TOLD.len()],
    io_urings: AtomicU64,
    /// Number of windows, or of full ranges after them, that were tried after a window without a free port.
    retries: AtomicU64,
    /// Number of calls that the supervisor made and that failed at once.
    failed: AtomicU64,
    filtered: AtomicU64,
    calls: AtomicU64,
    busy_ns: AtomicU64,
    longest_ns: AtomicU64,
    /// Connections that the supervisor made.
    made: Mutex<Made>,
}

/// Connections of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Made {
    /// Durations of connect() calls that got an even port.
    pub(super) even: Mean,
    /// Durations of connect() calls that got an odd port.
    pub(super) odd: Mean,
    /// Number of connections before the first one from an odd port.
    pub(super) before_odd: Option<u64>,
    /// Candidate ports of each search, if traced.
    pub(super) scanned: Mean,
    /// Number of calls that failed.
    pub(super) failed: u64,
}

/// A mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mean {
    pub(super) count: u64,
    sum: f64,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
    }

    pub(super) fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Made {
    /// Adds a connection from this port.
    pub(super) fn add(&mut self, port: u16, ns: f64, scanned: Option<u32>) {
        match port % 2 {
            0 => self.even.add(ns),
            _ => {
                self.before_odd.get_or_insert(self.even.count);
                self.odd.add(ns);
            }
        }
        if let Some(scanned) = scanned {
            self.scanned.add(scanned.into());
        }
    }

    /// Returns the number of connections.
    pub(super) fn count(&self) -> u64 {
        self.even.count + self.odd.count
    }
}

/// Counts at the end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) set: u64,
    /// In the order of [`LeftAlone::TOLD`].
    left: [u64; LeftAlone::TOLD.len()],
    pub(super) io_urings: u64,
    pub(super) retries: u64,
    pub(super) failed: u64,
    /// Number of processes with seccomp filters of their own.
    pub(super) filtered: u64,
    /// Number of notifications that were answered.
    pub(super) calls: u64,
    pub(super) busy_ns: u64,
    pub(super) longest_ns: u64,
    pub(super) made: Made,
}

impl Counts {
    /// Counts a call that was answered after a time in the supervisor.
    pub(super) fn add(&self, done: Done, ns: u64) {
        match done {
            Done::Set => _ = self.set.fetch_add(1, Relaxed),
            Done::Left(why) => {
                let place = LeftAlone::TOLD.iter().position(|told| told.0 == why);
                if let Some(place) = place {
                    self.left[place].fetch_add(1, Relaxed);
                }
            }
            Done::IoUring => _ = self.io_urings.fetch_add(1, Relaxed),
            Done::NotCounted => {}
        }
        self.calls.fetch_add(1, Relaxed);
        self.busy_ns.fetch_add(ns, Relaxed);
        self.longest_ns.fetch_max(ns, Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn set_filtered(&self, processes: usize) {
        self.filtered.store(processes as u64, Relaxed);
    }

    pub(super) fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self) -> Counted {
        Counted {
            set: self.set.load(Relaxed),
            left: self.left.each_ref().map(|count| count.load(Relaxed)),
            io_urings: self.io_urings.load(Relaxed),
            retries: self.retries.load(Relaxed),
            failed: self.failed.load(Relaxed),
            filtered: self.filtered.load(Relaxed),
            calls: self.calls.load(Relaxed),
            busy_ns: self.busy_ns.load(Relaxed),
            longest_ns: self.longest_ns.load(Relaxed),
            made: *self.made(),
        }
    }
}

impl Counted {
    /// Returns the number of sockets that were left alone.
    pub(super) fn left_alone(&self) -> u64 {
        self.left.iter().sum()
    }

    /// Returns the reasons for that, each with its name in JSON, its words, and the number of sockets.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let counts = LeftAlone::TOLD.iter().zip(self.left);
        counts.map(|(&(_, name, words), count)| (name, words, count))
    }

    /// Returns the mean time that a call took in the supervisor.
    pub(super) fn mean_ns(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.busy_ns as f64 / self.calls as f64)
    }
}
