//! The other end of the connections in a private namespace: connections must never have to wait for it.
//!
//! If all connections are held, nobody accepts them. The kernel completes them and keeps them in the queues
//! of many listeners on one port, which costs no descriptor and no time of another thread. If connections are
//! closed, threads accept them, and close them when the other end has closed.

use std::{
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread::{Scope, ScopedJoinHandle},
};

use anyhow::{Context as _, Result};
use libc::{c_int, epoll_event};

use super::{
    files, namespace,
    plan::{Plan, Protocol},
    socket::Socket,
};

/// Size of the queues, as a multiple of the expected number: the kernel distributes connections by a hash.
const ROOM: u32 = 2;

/// Interval at which an acceptor checks if it has to end.
const LOOK_MS: c_int = 50;

/// Opens the listeners of a run that holds all its connections.
pub(super) fn open_queues(plan: &Plan) -> Result<Vec<Socket>> {
    if plan.protocol != Protocol::Tcp {
        return Ok(Vec::new());
    }
    let backlog = namespace::longest_backlog().max(1);
    let listeners = (plan.connections * ROOM).div_ceil(backlog).max(1);
    (0..listeners)
        .map(|_| open(plan.destination(), backlog))
        .collect()
}

fn open(at: SocketAddr, backlog: u32) -> Result<Socket> {
    let listen = || {
        let socket = Socket::open(Protocol::Tcp, at.is_ipv6())?;
        socket.share_port()?;
        socket.bind(&at.into())?;
        socket.listen(c_int::try_from(backlog).unwrap_or(c_int::MAX))?;
        Ok::<_, std::io::Error>(socket)
    };
    listen().with_context(|| format!("cannot listen at {at}"))
}

/// Starts the threads that accept connections, with room for `most_open` of them; one table of files holds
/// `per_table`. The threads end when `stop` is set.
pub(super) fn start_acceptors<'scope>(
    scope: &'scope Scope<'scope, '_>,
    plan: &Plan,
    most_open: u32,
    per_table: usize,
    stop: &'scope AtomicBool,
) -> Result<Vec<ScopedJoinHandle<'scope, Result<()>>>> {
    if plan.protocol != Protocol::Tcp {
        return Ok(Vec::new());
    }
    let at = plan.destination();
    let acceptors = (most_open * ROOM)
        .div_ceil(u32::try_from(per_table)?)
        .max(1);
    let mut started = Vec::new();
    for _ in 0..acceptors {
        let (ready, is_ready) = std::sync::mpsc::channel();
        started.push(scope.spawn(move || {
            let acceptor = files::own_table().and_then(|()| Acceptor::new(at));
            // Sending fails only if the receiver is gone.
            let _ = ready.send(());
            acceptor?.run(stop)
        }));
        // An error is returned when the thread is joined.
        let _ = is_ready.recv();
    }
    Ok(started)
}

struct Acceptor {
    listener: socket2::Socket,
    epoll: std::os::fd::OwnedFd,
    /// Accepted sockets, indexed by descriptor.
    accepted: Vec<Option<socket2::Socket>>,
}

impl Acceptor {
    fn new(at: SocketAddr) -> Result<Self> {
        use std::os::fd::FromRawFd as _;
        let listener = open(at, namespace::longest_backlog().max(1))?;
        listener.never_block()?;
        // SAFETY: the call takes no pointers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(epoll).context("cannot create an epoll instance")?;
        let acceptor = Self {
            listener: listener.into_inner(),
            // SAFETY: the descriptor was just opened and belongs to nobody else.
            epoll: unsafe { std::os::fd::OwnedFd::from_raw_fd(epoll) },
            accepted: Vec::new(),
        };
        acceptor.watch(&acceptor.listener, libc::EPOLLIN)?;
        Ok(acceptor)
    }

    fn watch(&self, socket: &socket2::Socket, events: c_int) -> Result<()> {
        let mut event = epoll_event {
            events: events.cast_unsigned(),
            u64: socket.as_raw_fd() as u64,
        };
        // SAFETY: both descriptors are open, and the event outlives the call.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                socket.as_raw_fd(),
                &raw mut event,
            )
        })
        .context("cannot watch a connection")
    }

    fn run(mut self, stop: &AtomicBool) -> Result<()> {
        const BATCH: usize = 256;
        let mut events = [epoll_event { events: 0, u64: 0 }; BATCH];
        while !stop.load(Ordering::Relaxed) {
            // SAFETY: the pointer is that of BATCH events, which the call fills.
            let count = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    BATCH as c_int,
                    LOOK_MS,
                )
            };
            for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
                let fd = event.u64 as usize;
                if fd == self.listener.as_raw_fd() as usize {
                    self.accept()?;
                } else {
                    self.accepted[fd] = None;
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        while let Ok((socket, _)) = self.listener.accept() {
            self.watch(&socket, libc::EPOLLIN | libc::EPOLLRDHUP)?;
            let fd = socket.as_raw_fd() as usize;
            if self.accepted.len() <= fd {
                self.accepted.resize_with(fd + 1, || None);
            }
            self.accepted[fd] = Some(socket);
        }
        Ok(())
    }
}

fn check(result: c_int) -> std::io::Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
