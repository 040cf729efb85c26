//! The price of supervision: the same connect() calls with it and without it, in a process of their own.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::{run::Run, strategy::Strategy, supervisor::Work};

/// The hidden command that runs [`run`].
const COMMAND: &str = "try-price";

/// The running program, even if its file was replaced or removed.
const OURSELVES: &str = "/proc/self/exe";

/// Number of calls of a process, after as many others that are not counted.
const CALLS: usize = 1000;

/// Number of processes with supervision, and of those without, one after the other.
const ROUNDS: usize = 3;

/// Longest time of one call: a host that drops packets answers nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Medians of a connect() that is refused at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Price {
    /// Number of calls of each kind.
    pub(super) calls: usize,
    /// Without supervision.
    pub(super) without_ns: u64,
    /// With supervision.
    pub(super) with_ns: u64,
}

impl Price {
    /// Returns the time that supervision adds to a call.
    pub(super) fn ns(self) -> f64 {
        self.with_ns as f64 - self.without_ns as f64
    }

    /// Measures the price of this work.
    ///
    /// # Errors
    /// If this host does not refuse connections to a port of its own at once.
    pub(super) fn measure(work: &Work) -> Result<Self> {
        let to = match work.addresses.first() {
            Some(address) if work.strategy == Strategy::Addresses && !address.is_loopback() => {
                *address
            }
            Some(address) if work.strategy == Strategy::Addresses && address.is_ipv6() => *address,
            // An address to which nobody else connects, so that every search finds a port at once.
            _ => Ipv4Addr::new(127, 213, 77, fastrand::u8(1..=254)).into(),
        };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.extend(times(to, None)?);
            with.extend(times(to, Some(work))?);
        }
        Ok(Self {
            calls: with.len(),
            without_ns: median(without),
            with_ns: median(with),
        })
    }
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(0)
}

/// Has a process make the calls, and returns their times.
fn times(to: IpAddr, work: Option<&Work>) -> Result<Vec<u64>> {
    let (mut results, written) = io::pipe().context("make a pipe")?;
    let descriptor = written.as_raw_fd();
    let arguments = [OURSELVES, COMMAND, &to.to_string(), &descriptor.to_string()];
    let arguments = arguments.map(OsString::from);
    let first = || {
        // SAFETY: the call takes numbers: the new program keeps the descriptor.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) };
    };
    // SAFETY: `first` calls the kernel only.
    let run = unsafe { Run::start_after(&arguments, work.cloned(), first) }?;
    drop(written);
    let mut bytes = Vec::new();
    results.read_to_end(&mut bytes)?;
    run.wait()?;
    let times: Vec<u64> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .collect();
    ensure!(
        times.len() == CALLS,
        "connections to {to} are not refused at once, which a firewall may be the reason of"
    );
    Ok(times)
}

/// Makes the calls, as the process that `connect-trace try` starts for it, and writes the time of each in nanoseconds.
///
/// # Errors
/// If it was not started so.
pub fn run(to: IpAddr, results: RawFd) -> Result<()> {
    /// A port that is assigned to no service of today (tcpmux).
    const PORT: u16 = 1;
    let domain = if to.is_ipv6() {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let to = SocketAddr::new(to, PORT).into();
    let mut bytes = Vec::with_capacity(8 * CALLS);
    for number in 0..2 * CALLS {
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let start = Instant::now();
        let result = socket.connect(&to);
        let took = start.elapsed();
        let is_refused = |error: io::Error| error.raw_os_error() == Some(libc::ECONNREFUSED);
        if !result.is_err_and(is_refused) {
            break;
        }
        if number >= CALLS {
            bytes.extend((took.as_nanos() as u64).to_ne_bytes());
        }
    }
    // SAFETY: the process was started with this descriptor, which nothing else uses.
    let mut results = unsafe { File::from_raw_fd(results) };
    results.write_all(&bytes)?;
    Ok(())
}
