//! Opens the connections of a run and measures each.

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
    files,
    order::{Batch, Order},
    plan::{Network, Plan},
    socket::Socket,
};

/// A thread needs little; there can be many.
const STACK_BYTES: usize = 256 << 10;

/// Most attempts that wait to be collected where connections are closed, which can last for any time.
const MOST_WAITING: usize = 1 << 15;

/// How long a thread waits where so many do, until it looks again.
const WAIT: Duration = Duration::from_millis(1);

/// How long an answer may take that does not come from this machine.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// What the threads of a run share.
pub(super) struct Work<'a> {
    plan: &'a Plan,
    destination: SockAddr,
    /// Connections that a thread's table of files holds.
    per_table: usize,
    begin: Instant,
    /// How many attempts have been asked for.
    asked: AtomicU32,
    /// Connections that are open.
    held: AtomicU32,
    /// One for each thread.
    journals: Vec<Mutex<Journal>>,
    /// Attempts in them.
    waiting: AtomicUsize,
    /// True if a thread has waited until its attempts were collected.
    held_back: AtomicBool,
    done: AtomicU32,
    errors: AtomicU32,
    failed: AtomicBool,
    /// Whether the connections may be closed.
    released: Mutex<bool>,
    release: Condvar,
}

/// The attempts of a thread since they were last collected. Nobody waits for the lock but while that is done.
#[derive(Debug, Default)]
struct Journal {
    batch: Batch,
    /// Every attempt of this thread that is yet to come ends after this moment.
    until_ns: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) done: u32,
    pub(super) errors: u32,
}

impl<'a> Work<'a> {
    /// The run begins now.
    pub(super) fn new(plan: &'a Plan, per_table: usize) -> Self {
        Self {
            plan,
            destination: plan.destination().into(),
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

    /// Collects what all threads have done, and returns the moment up to which nothing is missing.
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

    /// Returns whether threads have waited because attempts were not collected as fast as they were made.
    pub(super) fn held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Time since the beginning.
    pub(super) fn elapsed_ns(&self) -> u64 {
        nanoseconds(self.begin.elapsed())
    }

    /// Lets all threads end early.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Lets all threads close their connections.
    pub(super) fn release(&self) {
        *lock(&self.released) = true;
        self.release.notify_all();
    }

    /// Opens connections until there are no more to open, calls `finished`, and holds them until the release.
    /// To be called on a thread of its own.
    ///
    /// This thread opens as many connections as its table holds. The rest is another thread's, with another
    /// table; this one keeps its connections open meanwhile.
    ///
    /// # Errors
    /// Where a socket cannot be opened, as for want of memory; no errno of the connects themselves.
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

    /// Whether the table is full, and there is more to do.
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

    /// Waits while too many attempts do, so that memory does not grow with them.
    fn wait_until_collected(&self, journal: &Mutex<Journal>) {
        while self.waiting.load(Ordering::Relaxed) >= MOST_WAITING
            && !self.failed.load(Ordering::Relaxed)
        {
            self.held_back.store(true, Ordering::Relaxed);
            lock(journal).until_ns = self.elapsed_ns();
            thread::sleep(WAIT);
        }
    }

    fn journal(&self, thread: u16) -> &Mutex<Journal> {
        &self.journals[usize::from(thread)]
    }

    /// How many connections this thread may have open, where the oldest are closed.
    fn share_to_hold(&self, thread: u16) -> Option<usize> {
        let all = self.plan.close_above?;
        let threads = u32::from(self.plan.threads);
        let one_more = u32::from(u32::from(thread) < all % threads);
        Some(((all / threads + one_more) as usize).max(1))
    }

    /// How many attempts were asked for before the next one; none where the run is to end.
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
        // Its own for each attempt, so that what is asked for depends on no other thread.
        let mut random = Rng::with_seed(stream(plan.seed, asked));
        let source = match plan.sources.len() {
            0 => None,
            sources => Some(plan.sources[asked as usize % sources]),
        };
        let mut socket = self.open()?;
        let mut tries = 1;
        let begin = Instant::now();
        let (before, after, result) = loop {
            let prepared = plan
                .strategy
                .prepare(&socket, source, plan.range, &mut random);
            let before = Instant::now();
            let result = prepared.and_then(|()| socket.connect(&self.destination));
            let after = Instant::now();
            let again = result
                .as_ref()
                .is_err_and(|error| plan.strategy.tries_again(errno(error)));
            if !again || tries >= plan.tries {
                break (before, after, result);
            }
            tries += 1;
            drop(socket);
            socket = self.open()?;
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
            tries,
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
                // The answer of another machine is not to be waited for within the time that is measured.
                if let Network::Present { .. } = self.plan.network {
                    socket.never_block()?;
                }
                Ok(socket)
            })
            .context("cannot open a socket")?;
        Ok(socket)
    }

    /// What became of a connect() that did not block.
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

/// Locks what no panic leaves in a state of its own.
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

/// A seed of its own for each attempt: the numbers are far apart for all seeds that people type.
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
