//! Connections at a steady rate, held open or closed here first, until no port is left.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use super::limit::make_room_for;
use super::record::Family;
use super::socket::{Socket, loopback};

/// Connections to make.
pub(super) struct Hold {
    /// The listener; `None` for one of its own.
    pub(super) address: Option<SocketAddr>,
    /// Number of connections that are closed here at once, before the others are made.
    pub(super) closed: usize,
    /// Number of connections after these.
    pub(super) open: usize,
    /// One in so many of those is closed here at once, too; 0 for none.
    pub(super) close_every: usize,
    /// Connections per second, at even intervals; `None` for no pauses.
    pub(super) rate: Option<u32>,
}

impl Hold {
    /// Makes the connections, and waits until it is killed. Prints a line for each one: what became of it, its port, and the
    /// time in seconds since 1970. It goes on waiting when no port is left, after a line with `none`.
    pub(super) fn run(&self) -> Result<()> {
        make_room_for(2 * (self.closed + self.open))?;
        let own = match self.address {
            Some(_) => None,
            None => {
                let mut listening = Socket::new(Family::V4)?;
                // Below every range.
                listening.bind_port(1_000)?;
                listening.listen(64)?;
                Some(listening.into_listener())
            }
        };
        let default = SocketAddr::new(loopback(Family::V4), 1_000);
        let address = self.address.unwrap_or(default);
        let mut held = Vec::new();
        let start = Instant::now();
        for number in 0..self.closed + self.open {
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            let mut socket = Socket::new(Family::V4)?;
            let errno = socket.connect(address).errno;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            match errno {
                0 => {}
                libc::EADDRNOTAVAIL => {
                    writeln!(io::stdout(), "none\t0\t{now:.3}")?;
                    break;
                }
                errno => bail!("connect: errno {errno}"),
            }
            let port = socket.local()?.port();
            let server = own.as_ref().map(|own| own.accept()).transpose();
            let server = server.context("cannot accept")?;
            let nth = (number + 1).saturating_sub(self.closed);
            let is_closed =
                nth == 0 || self.close_every > 0 && nth.is_multiple_of(self.close_every);
            let what = if is_closed { "closed" } else { "open" };
            writeln!(io::stdout(), "{what}\t{port}\t{now:.3}")?;
            if !is_closed {
                held.push((socket, server));
            } else {
                // The side that closes first keeps the port.
                drop(socket);
                drop(server);
            }
        }
        loop {
            thread::park();
        }
    }
}
