//! Opens the connections of a run and measures each of them.

use std::{
    collections::VecDeque,
    io, mem,
    net::IpAddr,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result};
use fastrand::Rng;
use socket2::SockAddr;

use super::{
    attempt::Attempt,
    cursor::Cursor,
    files, namespace,
    order::{Batch, Order},
    plan::{Network, Plan},
    socket::Socket,
    strategy::Ports,
};

/// Stack of a thread: a thread needs little, and there can be many.
const STACK_BYTES: usize = 256 << 10;

/// Maximum number of attempts that wait to be collected if connections are closed: such a run can last for any time.
const MOST_WAITING: usize = 1 << 15;

/// Time that a thread sleeps if too many attempts are waiting, before it checks again.
const WAIT: Duration = Duration::from_millis(1);

/// Maximum time that a thread sleeps before it looks if the run has failed.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

/// Maximum time for an answer from another machine.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// State that the threads of a run share.
pub(super) struct Work<'a> {
    plan: &'a Plan,
    destination: SockAddr,
    /// Ports in the order of the strategies that have one.
    cursor: Cursor,
    /// Connections that one table of files holds.
    per_table: usize,
    begin: Instant,
    /// Number of attempts that were started.
    asked: AtomicU32,
    /// Number of connections that are open.
    held: AtomicU32,
    /// One journal for each thread.
    journals: Vec<Mutex<Journal>>,
    /// Number of attempts in the journals.
    waiting: AtomicUsize,
    /// True if a thread had to wait until its attempts were collected.
    held_back: AtomicBool,
    done: AtomicU32,
    errors: AtomicU32,
    failed: AtomicBool,
    /// True if the connections may be closed.
    released: Mutex<bool>,
    release: Condvar,
}

/// The attempts of a thread since they were last collected. The lock is contended only during collection.
#[derive(Debug, Default)]
struct Journal {
    batch: Batch,
    /// Every later attempt of this thread ends after this moment.
    until_ns: u64,
}

/// Progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) done: u32,
    pub(super) errors: u32,
}

impl<'a> Work<'a> {
    /// Starts the clock of the run.
    pub(super) fn new(plan: &'a Plan, per_table: usize) -> Self {
        let is_reserved = namespace::reserved_ports();
        let ports = plan.strategy.cursor_ports(plan.range, |port| {
            is_reserved.iter().any(|span| span.contains(&port))
        });
        Self {
            plan,
            destination: plan.destination().into(),
            cursor: Cursor::new(ports, plan.seed),
            per_table,
            begin: Instant::now(),
            asked: AtomicU32::new(0),
            held: AtomicU32::new(0),
            journals: (0..plan.threads).map(|_| Mutex::default()).collect(),
            waiting: AtomicUsize::new(0),
            held_back: AtomicBool::new(false),
            done: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            released: Mutex::new(false),
            release: Condvar::new(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            done: self.done.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    /// Collects the attempts of all threads, and returns the moment up to which none is missing.
    pub(super) fn collect(&self, order: &mut Order) -> u64 {
        let collected = self.journals.iter().map(|journal| {
            let mut journal = lock(journal);
            let batch = mem::take(&mut journal.batch);
            self.waiting
                .fetch_sub(batch.attempts.len(), Ordering::Relaxed);
            order.add(batch);
            journal.until_ns
        });
        collected.min().unwrap_or(u64::MAX)
    }

    /// Returns true if threads had to wait because attempts were not collected as fast as they were made.
    pub(super) fn held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Time since the beginning of the run.
    pub(super) fn elapsed_ns(&self) -> u64 {
        nanoseconds(self.begin.elapsed())
    }

    /// Makes all threads end early.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Lets all threads close their connections.
    pub(super) fn release(&self) {
        *lock(&self.released) = true;
        self.release.notify_all();
    }

    /// Opens connections until there are no more to open, calls `finished`, and holds them until the release.
    /// Must be called on a new thread.
    ///
    /// This thread opens as many connections as its table of files holds. It hands the rest to another thread
    /// with another table, and keeps its own connections open meanwhile.
    ///
    /// # Errors
    /// If a socket cannot be opened, for example for lack of memory; errors of connect() itself are results.
    pub(super) fn run(&self, thread: u16, finished: impl FnOnce() + Send) -> Result<()> {
        let mut open = VecDeque::new();
        let full = files::own_table().and_then(|()| self.connect_all(thread, &mut open));
        match full {
            Ok(true) => thread::scope(|scope| {
                let rest = thread::Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, || self.run(thread, finished))
                    .context("cannot start another thread")?;
                rest.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }),
            Ok(false) => {
                lock(self.journal(thread)).until_ns = u64::MAX;
                finished();
                self.hold();
                Ok(())
            }
            Err(error) => {
                self.fail();
                finished();
                Err(error)
            }
        }
    }

    /// Opens connections. Returns true if the table is full and there is more to do.
    fn connect_all(&self, thread: u16, open: &mut VecDeque<Socket>) -> Result<bool> {
        let most = self.share_to_hold(thread);
        let journal = self.journal(thread);
        loop {
            while most.is_some_and(|most| open.len() >= most) {
                open.pop_front();
                self.held.fetch_sub(1, Ordering::Relaxed);
                lock(journal).batch.closed_ns.push(self.elapsed_ns());
            }
            if open.len() >= self.per_table {
                return Ok(true);
            }
            if most.is_some() {
                self.wait_until_collected(journal);
            }
            let Some(asked) = self.take() else {
                return Ok(false);
            };
            self.wait_for_turn(asked, journal);
            let (attempt, socket) = self.attempt(asked, thread)?;
            if attempt.errno == 0 {
                self.held.fetch_add(1, Ordering::Relaxed);
                open.push_back(socket);
            } else {
                self.errors.fetch_add(1, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            let mut journal = lock(journal);
            journal.until_ns = attempt.end_ns();
            journal.batch.attempts.push(attempt);
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits while too many attempts are waiting, so that memory does not grow with them.
    fn wait_until_collected(&self, journal: &Mutex<Journal>) {
        while self.waiting.load(Ordering::Relaxed) >= MOST_WAITING
            && !self.failed.load(Ordering::Relaxed)
        {
            self.held_back.store(true, Ordering::Relaxed);
            lock(journal).until_ns = self.elapsed_ns();
            thread::sleep(WAIT);
        }
    }

    /// Waits until an attempt is due, if the plan has a rate. A late attempt does not move those that follow.
    fn wait_for_turn(&self, asked: u32, journal: &Mutex<Journal>) {
        let Some(rate) = self.plan.rate else {
            return;
        };
        let due = Duration::from_secs(1) * asked / rate;
        loop {
            let left = due.saturating_sub(self.begin.elapsed());
            if left.is_zero() || self.failed.load(Ordering::Relaxed) {
                return;
            }
            lock(journal).until_ns = self.elapsed_ns();
            thread::sleep(left.min(LONGEST_SLEEP));
        }
    }

    fn journal(&self, thread: u16) -> &Mutex<Journal> {
        &self.journals[usize::from(thread)]
    }

    /// Maximum number of connections that this thread may hold; `None` if all are kept open.
    fn share_to_hold(&self, thread: u16) -> Option<usize> {
        let all = self.plan.close_above?;
        let threads = u32::from(self.plan.threads);
        let one_more = u32::from(u32::from(thread) < all % threads);
        Some(((all / threads + one_more) as usize).max(1))
    }

    /// Returns the number of attempts that were started before the next one; `None` if the run is to end.
    fn take(&self) -> Option<u32> {
        let held = self.held.load(Ordering::Relaxed);
        if self.failed.load(Ordering::Relaxed)
            || self.plan.until_held.is_some_and(|until| held >= until)
        {
            return None;
        }
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        (asked < self.plan.connections).then_some(asked)
    }

    fn attempt(&self, asked: u32, thread: u16) -> Result<(Attempt, Socket)> {
        let plan = self.plan;
        let source = match plan.sources.len() {
            0 => None,
            sources => Some(plan.sources[asked as usize % sources]),
        };
        let mut ports = Ports {
            protocol: plan.protocol,
            range: plan.range,
            source,
            cursor: &self.cursor,
            // Each attempt has its own generator, so that its random choices do not depend on other threads.
            random: Rng::with_seed(stream(plan.seed, asked)),
        };
        let mut socket = self.open()?;
        let mut failed = 0;
        let begin = Instant::now();
        let (before, after, result) = loop {
            let prepared = plan.strategy.prepare(&socket, &mut ports, failed);
            let before = Instant::now();
            let result = prepared.and_then(|()| socket.connect(&self.destination));
            let after = Instant::now();
            let again = result
                .as_ref()
                .is_err_and(|error| plan.strategy.tries_again(errno(error), failed, plan.range));
            if !again || failed + 1 >= plan.tries {
                break (before, after, result);
            }
            failed += 1;
            if !plan.strategy.keeps_socket() {
                drop(socket);
                socket = self.open()?;
            }
        };
        let result = self.answered(&socket, result);
        let local = socket.local().ok().flatten();
        let known = |address: &IpAddr| !address.is_unspecified();
        let attempt = Attempt {
            run: 0,
            number: 0,
            thread,
            start_ns: nanoseconds(begin - self.begin),
            prepare_ns: nanoseconds(before - begin),
            connect_ns: nanoseconds(after - before),
            tries: failed + 1,
            held: 0,
            source: local.map(|local| local.ip()).filter(known),
            port: local.map(|local| local.port()).filter(|_| result.is_ok()),
            errno: result.as_ref().map_or_else(errno, |()| 0),
        };
        Ok((attempt, socket))
    }

    fn open(&self) -> Result<Socket> {
        let socket = Socket::open(self.plan.protocol, self.plan.v6)
            .and_then(|socket| {
                // The measured time must not include waiting for the answer of another machine.
                if let Network::Present { .. } = self.plan.network {
                    socket.never_block()?;
                }
                Ok(socket)
            })
            .context("cannot open a socket")?;
        Ok(socket)
    }

    /// Returns the result of a connect() that did not block.
    fn answered(&self, socket: &Socket, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                socket.answer(LONGEST_ANSWER)
            }
            result => result,
        }
    }

    fn hold(&self) {
        let mut released = lock(&self.released);
        while !*released {
            released = self
                .release
                .wait(released)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Locks a mutex, ignoring poisoning: no panic leaves its data in an invalid state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread with a small stack.
pub(super) fn start<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, Result<T>>> {
    thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn_scoped(scope, work)
        .map_err(Error::from)
        .context("cannot start a thread")
}

/// Returns a separate seed for each attempt; the results are far apart for all seeds that people type.
fn stream(seed: u64, asked: u32) -> u64 {
    Rng::with_seed(seed).u64(..) ^ u64::from(asked).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_random_depends_on_seed_and_number_and_on_nothing_else() {
        let draw = |seed, number| Rng::with_seed(stream(seed, number)).u16(9024..=65_535);
        assert_eq!(draw(1, 7), draw(1, 7));
        let drawn: std::collections::BTreeSet<u16> =
            (0..1000).map(|number| draw(1, number)).collect();
        assert!(drawn.len() > 950, "{} of 1000 differ", drawn.len());
        let other: Vec<u16> = (0..10).map(|number| draw(2, number)).collect();
        assert_ne!(
            other,
            (0..10).map(|number| draw(1, number)).collect::<Vec<_>>()
        );
    }
}
