//! The loop that receives notifications, acts on the program's sockets, and answers.
//!
//! One thread receives: the kernel wakes every thread that waits for notifications, so that more of them only wake in
//! vain. A connect() whose window has no free port is finished by other threads, so that nobody else waits for it.

use std::{
    io,
    net::IpAddr,
    os::unix::thread::JoinHandleExt as _,
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use libc::{c_int, pid_t, seccomp_notif};
use serde::{Deserialize, Serialize};

use super::{
    counts::{Counted, Counts, Done, LeftAlone},
    listener::{Answer, Listener, SLOTS, Slots, stage},
    namespaces::Namespaces,
    reach::Reach,
    socket::{ALL_PORTS, Destination, Socket, reaches},
    strategy::Strategy,
};
use crate::{connect::PortRange, load::strategy::window};

/// Maximum number of threads that finish calls whose window had no free port.
const FINISHERS: usize = 4;

/// Work of a supervisor.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Work {
    pub(super) strategy: Strategy,
    /// Source addresses of [`Strategy::Addresses`].
    pub(super) addresses: Vec<IpAddr>,
    /// The supervisor makes all connect() calls, and times them.
    pub(super) measures: bool,
}

impl Work {
    /// Returns true if the supervisor makes the program's connect() calls.
    fn connects(&self) -> bool {
        self.measures || matches!(self.strategy, Strategy::WindowRetry(_))
    }
}

/// Everything that the threads share.
pub(super) struct Shared {
    pub(super) work: Work,
    pub(super) listener: Listener,
    pub(super) slots: Slots,
    counts: Counts,
    free: Mutex<Vec<usize>>,
    stopped: AtomicBool,
    namespaces: Namespaces,
}

impl Shared {
    pub(super) fn new(work: Work, listener: Listener, slots: Slots) -> Self {
        Self {
            work,
            listener,
            slots,
            counts: Counts::default(),
            free: Mutex::new((0..SLOTS).collect()),
            stopped: AtomicBool::new(false),
            namespaces: Namespaces::default(),
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a notification, and empties its slot.
    ///
    /// `connecting` is the time in connect(), which is none of the supervision's own.
    fn answer(&self, call: Call, answer: Answer, done: Done, connecting: Duration) {
        let sent = self.listener.answer(call.id, answer);
        self.slots.clear(call.slot);
        // A call that was interrupted comes again.
        if sent.is_ok() {
            let own = call.received.elapsed().saturating_sub(connecting);
            self.counts.add(done, own.as_nanos() as u64);
        }
    }
}

/// The threads of a supervisor.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    receiving: JoinHandle<()>,
}

impl Supervisor {
    /// Begins to answer.
    ///
    /// # Errors
    /// If no thread can be made.
    pub(super) fn start(shared: Shared) -> Result<Self> {
        interruptible();
        let shared = Arc::new(shared);
        let worker = Worker::new(Arc::clone(&shared));
        let guard = Guard(Arc::clone(&shared));
        let receiving = thread::Builder::new()
            .name("ct-supervise".to_owned())
            .spawn(move || {
                let _guard = guard;
                worker.run(false);
            })
            .context("cannot start the supervisor's thread")?;
        Ok(Self { shared, receiving })
    }

    /// Returns what the threads share.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Stops, and returns what was counted. Calls that are made from now on wait for another supervisor.
    pub(super) fn stop(self) -> Counted {
        self.shared.stopped.store(true, Ordering::Relaxed);
        while !self.receiving.is_finished() {
            // A number or a pointer, by the C library.
            let thread = self.receiving.as_pthread_t() as libc::pthread_t;
            // SAFETY: the thread has not been joined.
            unsafe { libc::pthread_kill(thread, libc::SIGURG) };
            thread::sleep(Duration::from_millis(1));
        }
        // A thread that panicked has printed its message already.
        let _ = self.receiving.join();
        self.shared.counts.get()
    }
}

/// Ends this process if its thread ends too early, so that the standby answers: else all calls would wait for ever.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.0.stopped.load(Ordering::Relaxed) && self.0.listener.is_in_use() {
            log::error!("the supervisor ends; its standby goes on");
            process::exit(1);
        }
    }
}

/// Answers in this thread, until nobody has the filter any more.
pub(super) fn supervise(shared: Shared) {
    Worker::new(Arc::new(shared)).run(true);
}

/// Has SIGURG interrupt a thread that waits for a notification. Nothing else is sent it.
fn interruptible() {
    extern "C" fn nothing(_: c_int) {}
    // SAFETY: all zeros are an action without flags; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut());
    }
}

/// A call under way.
#[derive(Clone, Copy)]
struct Call {
    slot: usize,
    id: u64,
    received: Instant,
}

/// A connect() that the supervisor makes.
struct Attempt {
    call: Call,
    socket: Socket,
    destination: Destination,
    blocks: bool,
    /// The range that windows are taken from; `None` if there is only one try.
    range: Option<PortRange>,
    tries: u32,
    took: Duration,
}

/// The next step for a call.
enum Step {
    /// The answer, the result to count, and the time in connect().
    Answer(Answer, Done, Duration),
    /// None of the window's ports is free.
    Again(Attempt),
}

struct Worker {
    shared: Arc<Shared>,
    reach: Reach,
    /// Number of the next address.
    turn: usize,
    random: Rng,
    finishers: Option<Finishers>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        let finishers = matches!(shared.work.strategy, Strategy::WindowRetry(_))
            .then(|| Finishers::start(&shared));
        Self {
            shared,
            reach: Reach::new(),
            turn: 0,
            random: Rng::new(),
            finishers,
        }
    }

    /// Receives and answers until it is stopped. With `polls`, it ends when nobody has the filter any more, on kernels
    /// that do not end a receiver then as well.
    fn run(mut self, polls: bool) {
        self.receive(polls);
        if let Some(finishers) = self.finishers {
            finishers.end();
        }
    }

    fn receive(&mut self, polls: bool) {
        let mut slot = self.shared.free().pop().unwrap_or(0);
        while !self.shared.stopped.load(Ordering::Relaxed) {
            if polls && matches!(self.shared.listener.wait(), Ok(false)) {
                return;
            }
            match self.shared.listener.receive(&self.shared.slots, slot) {
                Ok(()) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN) => continue,
                    Some(libc::ENOENT) if self.shared.listener.is_in_use() => continue,
                    Some(libc::ENOENT) => return,
                    _ => {
                        log::error!("cannot receive a notification of seccomp: {error}");
                        return;
                    }
                },
            }
            let notification = self.shared.slots.notification(slot);
            let call = Call {
                slot,
                id: notification.id,
                received: Instant::now(),
            };
            let again = match self.step(call, &notification) {
                Ok(Step::Answer(answer, done, connecting)) => {
                    self.shared.answer(call, answer, done, connecting);
                    continue;
                }
                Err(done) => {
                    self.shared
                        .answer(call, Answer::Continue, done, Duration::ZERO);
                    continue;
                }
                Ok(Step::Again(attempt)) => attempt,
            };
            // The slot stays with the call: another one is needed for the next.
            let other = self.shared.free().pop();
            match (other, &self.finishers) {
                (Some(other), Some(finishers)) => {
                    slot = other;
                    if let Err(mpsc::SendError(attempt)) = finishers.attempts.send(again) {
                        attempt.finish(&self.shared, &mut self.random);
                        self.shared.free().push(call.slot);
                    }
                }
                _ => again.finish(&self.shared, &mut self.random),
            }
        }
    }

    /// Acts on the socket of a call. An error is a call that the kernel makes as if nothing had been.
    fn step(&mut self, call: Call, notification: &seccomp_notif) -> Result<Step, Done> {
        let data = &notification.data;
        let number = libc::c_long::from(data.nr);
        if number == libc::SYS_io_uring_setup {
            return Err(Done::IoUring);
        }
        let work = &self.shared.work;
        if work.strategy == Strategy::Default && !work.measures {
            return Err(Done::Left(LeftAlone::Unchanged));
        }
        let tid = notification.pid.cast_signed();
        let listener = &self.shared.listener;
        let duplicate = self
            .reach
            .duplicate(listener, call.id, tid, data.args[0] as c_int);
        let socket = Socket::new(duplicate?);
        if self.reach.filtered() > 0 {
            self.shared.counts.set_filtered(self.reach.filtered());
        }
        let is_tcp = match socket.protocol() {
            Ok(libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => true,
            Ok(libc::IPPROTO_UDP) if work.strategy == Strategy::Addresses => false,
            Ok(_) => return Err(Done::Left(LeftAlone::Protocol)),
            // Not a socket.
            Err(_) => return Err(Done::NotCounted),
        };
        let Ok(Some(local)) = socket.local() else {
            return Err(Done::Left(LeftAlone::Protocol));
        };
        if local.port() != 0 {
            return Err(if is_tcp && socket.is_under_way() {
                Done::NotCounted
            } else {
                Done::Left(LeftAlone::Port)
            });
        }
        let is_connect = number == libc::SYS_connect;
        let makes = is_tcp && is_connect && work.connects();
        let destination = if makes || work.strategy == Strategy::Addresses {
            Some(self.destination(call, tid, notification)?)
        } else {
            None
        };
        let mut range = None;
        match work.strategy {
            Strategy::Default => {}
            Strategy::FullRange => set_all_ports(&socket)?,
            // A call that connects by sending cannot be made by the supervisor, so it gets no second window.
            Strategy::WindowRetry(_) if !is_connect => set_all_ports(&socket)?,
            Strategy::WindowRetry(_) => {
                if !matches!(socket.port_range(), 0 | ALL_PORTS) {
                    return Err(Done::Left(LeftAlone::OwnRange));
                }
                let own = self.shared.namespaces.range(&socket, tid);
                range = Some(own.ok_or(Done::Left(LeftAlone::Namespace))?);
            }
            Strategy::Addresses => {
                if !local.ip().is_unspecified() {
                    let is_ours = work.addresses.contains(&local.ip().to_canonical());
                    return Err(if is_ours {
                        Done::Set
                    } else {
                        Done::Left(LeftAlone::Address)
                    });
                }
                let to = destination.as_ref().and_then(Destination::ip);
                let to = to.ok_or(Done::Left(LeftAlone::Destination))?;
                bind_next(&socket, &work.addresses, &mut self.turn, to)?;
            }
        }
        let Some(destination) = destination.filter(|_| makes) else {
            return Ok(Step::Answer(Answer::Continue, Done::Set, Duration::ZERO));
        };
        let blocks = socket.blocks().map_err(|_| Done::NotCounted)?;
        let step = if blocks {
            stage::CONNECTING_BLOCKING
        } else {
            stage::CONNECTING
        };
        self.shared.slots.set_stage(call.slot, step);
        if blocks && socket.set_blocking(false).is_err() {
            return Err(Done::Left(LeftAlone::Refused));
        }
        let mut attempt = Attempt {
            call,
            socket,
            destination,
            blocks,
            range,
            tries: 0,
            took: Duration::ZERO,
        };
        let errno = attempt.connect(&self.shared, &mut self.random);
        if errno == libc::EADDRNOTAVAIL && attempt.range.is_some() {
            return Ok(Step::Again(attempt));
        }
        let answer = attempt.end(&self.shared, errno);
        Ok(Step::Answer(answer, Done::Set, attempt.took))
    }

    /// Reads the address that the thread connects to, while it waits.
    fn destination(
        &self,
        call: Call,
        tid: pid_t,
        notification: &seccomp_notif,
    ) -> Result<Destination, Done> {
        let args = &notification.data.args;
        let number = libc::c_long::from(notification.data.nr);
        let (pointer, length) = match number {
            libc::SYS_connect => (args[1], args[2]),
            libc::SYS_sendto => (args[4], args[5]),
            // The address is behind another pointer.
            _ => return Err(Done::Left(LeftAlone::Destination)),
        };
        let destination = Destination::read(tid, pointer, length as u32 as u64);
        if !self.shared.listener.is_valid(call.id) {
            return Err(Done::NotCounted);
        }
        match destination {
            // Another family is an error of the program's, or the end of a connection.
            Ok(destination) if destination.ip().is_none() => Err(Done::NotCounted),
            Ok(destination) => Ok(destination),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                Err(Done::Left(LeftAlone::Forbidden))
            }
            Err(_) => Err(Done::NotCounted),
        }
    }
}

/// Has connect() choose from all ports, unless the program has set a range of its own.
fn set_all_ports(socket: &Socket) -> Result<(), Done> {
    match socket.port_range() {
        0 => socket
            .set_port_range(ALL_PORTS)
            .map_err(|_| Done::Left(LeftAlone::Refused)),
        // By a call that was interrupted, or whose connect() failed.
        ALL_PORTS => Ok(()),
        _ => Err(Done::Left(LeftAlone::OwnRange)),
    }
}

/// Binds the next address that reaches the destination.
fn bind_next(
    socket: &Socket,
    addresses: &[IpAddr],
    turn: &mut usize,
    to: IpAddr,
) -> Result<(), Done> {
    for _ in 0..addresses.len() {
        let address = addresses[*turn % addresses.len()];
        *turn = turn.wrapping_add(1);
        if reaches(address, to) {
            return socket
                .bind_address(address)
                .map_err(|_| Done::Left(LeftAlone::Refused));
        }
    }
    Err(Done::Left(LeftAlone::Destination))
}

impl Attempt {
    /// Calls connect() with a window, or with all ports once enough windows had no free port.
    fn connect(&mut self, shared: &Shared, random: &mut Rng) -> i32 {
        if let (Some(range), Strategy::WindowRetry(ports)) = (self.range, shared.work.strategy) {
            let window = window(ports, self.tries, range, None, random);
            let both = if window == range {
                self.range = None;
                ALL_PORTS
            } else {
                u32::from(window.high) << 16 | u32::from(window.low)
            };
            // Without its window, the socket chooses from all ports.
            let _ = self.socket.set_port_range(both);
        }
        if self.tries > 0 {
            shared.counts.retried();
        }
        self.tries += 1;
        let start = Instant::now();
        let errno = self.socket.connect(&self.destination);
        self.took += start.elapsed();
        errno
    }

    /// Tries until a port is found or none is free, and answers.
    fn finish(mut self, shared: &Shared, random: &mut Rng) {
        let mut errno = libc::EADDRNOTAVAIL;
        while errno == libc::EADDRNOTAVAIL && self.range.is_some() {
            errno = self.connect(shared, random);
        }
        let answer = self.end(shared, errno);
        shared.answer(self.call, answer, Done::Set, self.took);
    }

    /// Leaves the socket as the program's connect() would have, and returns the answer.
    fn end(&self, shared: &Shared, errno: i32) -> Answer {
        let is_under_way = errno == libc::EINPROGRESS;
        // First of all: the peer may reset the connection at any time.
        let is_established = self.blocks && is_under_way && self.socket.is_established();
        // A call that succeeds at once has put off its search: TCP_FASTOPEN_CONNECT.
        if errno != 0 && matches!(shared.work.strategy, Strategy::WindowRetry(_)) {
            let _ = self.socket.set_port_range(0);
        }
        if errno != 0 && !is_under_way {
            shared.counts.failed();
        } else if shared.work.measures
            && let Ok(Some(local)) = self.socket.local()
        {
            let ns = self.took.as_nanos() as f64;
            shared.counts.made().add(local.port(), ns, None);
        }
        if self.blocks {
            let _ = self.socket.set_blocking(true);
        }
        match (is_under_way, self.blocks) {
            // The handshake is over: there is nothing to wait for.
            (true, true) if is_established => Answer::Result(0),
            // The program's own call waits for it.
            (true, true) => Answer::Continue,
            _ => Answer::Result(errno),
        }
    }
}

/// Threads that finish attempts.
struct Finishers {
    attempts: Sender<Attempt>,
    threads: Vec<JoinHandle<()>>,
}

impl Finishers {
    /// Starts as many threads as there are CPUs, up to a limit. Without any, the receiver of attempts is gone.
    fn start(shared: &Arc<Shared>) -> Self {
        let (attempts, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let start = |_| {
            let (shared, receiver) = (Arc::clone(shared), Arc::clone(&receiver));
            thread::Builder::new()
                .name("ct-finish".to_owned())
                .spawn(move || finish_all(&shared, &receiver))
                .ok()
        };
        let threads = (0..cpus.min(FINISHERS)).filter_map(start).collect();
        Self { attempts, threads }
    }

    /// Waits until all attempts are finished.
    fn end(self) {
        drop(self.attempts);
        for thread in self.threads {
            // A thread that panicked has printed its message already.
            let _ = thread.join();
        }
    }
}

fn finish_all(shared: &Shared, attempts: &Mutex<Receiver<Attempt>>) {
    let mut random = Rng::new();
    loop {
        let next = attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match next {
            Ok(attempt) => {
                let slot = attempt.call.slot;
                attempt.finish(shared, &mut random);
                shared.free().push(slot);
            }
            Err(_) => return,
        }
    }
}

/// Finishes the call in a slot that another supervisor had begun with, as well as can be.
pub(super) fn take_over(shared: &Shared, slot: usize) -> io::Result<()> {
    let notification = shared.slots.notification(slot);
    if notification.id == 0 {
        return Ok(());
    }
    let stage = shared.slots.stage(slot);
    let mut answer = Answer::Continue;
    if stage != stage::NONE
        && let Ok(fd) = Reach::new().duplicate(
            &shared.listener,
            notification.id,
            notification.pid.cast_signed(),
            notification.data.args[0] as c_int,
        )
    {
        let socket = Socket::new(fd);
        if stage == stage::CONNECTING_BLOCKING {
            let _ = socket.set_blocking(true);
        } else if socket.is_under_way() {
            // Made already: a second connect() would say so.
            answer = Answer::Result(libc::EINPROGRESS);
        }
        if !socket.is_under_way() && matches!(shared.work.strategy, Strategy::WindowRetry(_)) {
            let _ = socket.set_port_range(0);
        }
    }
    let sent = shared.listener.answer(notification.id, answer);
    shared.slots.clear(slot);
    sent
}
