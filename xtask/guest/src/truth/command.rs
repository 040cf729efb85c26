//! Command line of `truth`: the case, its size, and its start. The help of each case gives the results that it expects
//! of the kernel.

use std::fmt::Display;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use super::exhaust::{Summary, exhaust, exhaust_waiting};
use super::hold::Hold;
use super::range::PortRange;
use super::rate::{Ends, rate};
use super::record::{Explicit, Family, Record};
use super::steady::Steady;
use super::udp::UdpRecord;
use super::{all, cases, crowd, dies, lifetime, mptcp, udp, ways};

/// Makes known connections on loopback, and prints a tab-separated line of truth for each connect() call when all are
/// made. The first line names the columns.
///
/// A local port is 0 if there is none. For a connect() whose process was killed inside it, end_ns is 0 and each unknown
/// value is "unknown". kernel_errno is the expected answer of tcp_v4_connect or tcp_v6_connect, or "none" if the call
/// does not reach that function and leaves no trace.
#[derive(Debug, Parser)]
#[command(name = "truth", version)]
pub struct Truth {
    /// Write the process id to this file at the start
    #[arg(long, global = true, value_name = "PATH")]
    pid_file: Option<PathBuf>,

    /// Make no connect() call before this file exists
    #[arg(long, global = true, value_name = "PATH")]
    wait_file: Option<PathBuf>,

    #[command(subcommand)]
    case: Case,
}

#[derive(Debug, Subcommand)]
enum Case {
    /// IPv4: errno 0, a port from the range
    V4(Count),
    /// IPv6: errno 0, a port from the range
    V6(Count),
    /// IPv4 through an IPv6 socket: errno 0, a port from the range; one record, not two
    Mapped(Count),
    /// bind() with a port, for each family: errno 0, that port
    BindPort(Count),
    /// bind() with port 0, for each family: errno 0, the port that bind() chose
    BindAny(Count),
    /// bind() with IP_BIND_ADDRESS_NO_PORT, for each family: errno 0, a port from the range
    BindAddress(Count),
    /// A port without a listener, for each family: ECONNREFUSED, though the kernel's function answers 0
    Refused(Count),
    /// No route, IPv4 and mapped: ENETUNREACH without a search (takes root)
    Unreachable(Count),
    /// No route, IPv6: ENETUNREACH without a search (takes root)
    V6Unreachable(Count),
    /// An explicit port whose connection exists, for each family: errno 0, then EADDRNOTAVAIL with
    /// the port kept
    Taken(Count),
    /// Every port of the range to one destination: errno 0; then EADDRNOTAVAIL for the extra ones. Prints a summary on
    /// stderr
    Exhaust(Exhaust),
    /// Both ports of a range in TIME_WAIT: 0 0, EADDRNOTAVAIL at once, 0 0 after a second (takes
    /// root)
    TimeWait,
    /// The same ports in two namespaces at the same time: errno 0 for all (takes root)
    Netns {
        /// Connections in each namespace, beside one with an explicit port
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
    /// All threads at once on one range, in the shortest turns: 0 for each port of the range, EADDRNOTAVAIL for the
    /// rest (takes root)
    Threads(Threads),
    /// O_NONBLOCK, for each family: EINPROGRESS, then 0 and EISCONN, or EALREADY; the last two do not call the kernel's
    /// function
    Nonblocking(Count),
    /// Three calls on one socket, for each family: ECONNREFUSED, ECONNREFUSED, 0
    Retry(Count),
    /// TCP Fast Open, for IPv4 and IPv6: by sendto(), and by a connect() that sends no SYN: 0 and 0 (takes root)
    FastOpen(Count),
    /// connect() by io_uring, in the requesting thread and in the kernel's thread for it (SQPOLL): 0 and 0
    IoUring(Count),
    /// connect() by the system call of 32-bit programs: 0
    Compat(Count),
    /// MPTCP: 0. For each connection the kernel makes a further one from 127.0.0.2, which has no line (takes root)
    Mptcp(Count),
    /// Threads that end after a connect(): errno 0; killed processes: 0, EADDRNOTAVAIL or unknown (takes root)
    Dies {
        /// Number of threads
        #[arg(long, default_value_t = 8)]
        threads: usize,
        /// Number of processes
        #[arg(long, default_value_t = 2)]
        victims: usize,
    },
    /// The process that `dies` kills
    #[command(name = dies::VICTIM, hide = true)]
    Victim,
    /// No connect() at all: a report without lines
    Idle {
        /// Seconds to wait
        #[arg(long, default_value_t = 1)]
        seconds: u64,
    },
    /// A few connections of each family to several ports, with and without success: 0, ECONNREFUSED seen as 0,
    /// EADDRNOTAVAIL; and with root, ENETUNREACH in another namespace
    Mixed,
    /// Every case that prints lines, each with its defaults or smaller (takes root)
    All,
    /// Threads that are all alive while each one connects and is refused: prints only the mean over the threads of the
    /// least time of a connect() in each thread, in microseconds
    Crowd {
        /// Number of threads that connect
        #[arg(long, default_value_t = 512)]
        threads: usize,
        /// Number of connect() calls of each thread
        #[arg(long, default_value_t = 10)]
        count: usize,
    },
    /// UDP and UDP-Lite: connect(), bind() and send() in every way, and other protocols of which no trace is expected.
    /// Prints lines with columns of their own (takes root)
    Udp {
        /// Number of threads that make all of these calls at once
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// A new socket of UDP for each connect(): prints only the least time of a connect(), in microseconds
    UdpLeast {
        /// Number of connect() calls
        #[arg(long, default_value_t = 2_000)]
        count: usize,
    },
    /// Connections one after the other, from open to close: prints only the least time of one, in microseconds
    Lifetime {
        /// Number of connections
        #[arg(long, default_value_t = 1000)]
        count: usize,
    },
    /// Connections at a steady rate until no port is left, without a record of truth: prints "closed", "open" or "none", the
    /// port and the time of each one, and holds the open ones until it is killed
    Hold {
        /// The listener, which closes what it is told to close [default: one of its own]
        address: Option<SocketAddr>,
        /// Number of connections that are closed at once, before the others are made
        #[arg(long, default_value_t = 0)]
        closed: usize,
        /// Number of connections after these
        #[arg(long, default_value_t = 0)]
        open: usize,
        /// Close one in so many of these at once, too
        #[arg(long, default_value_t = 0)]
        close_every: usize,
        /// Connections per second, at even intervals
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
    },
    /// A number of ports in use, while threads connect to the same destination and close by a reset: prints what `rate`
    /// prints, of the threads
    Steady {
        #[command(flatten)]
        range: RangeOptions,
        /// Number of connections that are held
        #[arg(long)]
        hold: usize,
        /// Number of threads that connect
        #[arg(long, default_value_t = 8)]
        threads: usize,
        /// Microseconds between two connections of a thread
        #[arg(long, default_value_t = 10_000)]
        pause_us: u64,
        /// Duration in seconds, once the ports are in use
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// As many connections as possible, closed by a reset, or refused: prints only "calls", "connected", "errno N",
    /// "seconds" and "per second", each with its number
    Rate {
        /// Connect to a port without a listener: only connect() is called, on one socket for each thread
        #[arg(long)]
        refused: bool,
        /// Number of threads that connect
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Duration in seconds
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
}

#[derive(Args, Debug)]
struct Count {
    /// Number of connections of each family and kind
    #[arg(long, default_value_t = 8)]
    count: usize,
}

#[derive(Args, Debug)]
struct RangeOptions {
    /// The range of ports to use up
    #[arg(value_name = "LO-HI")]
    range: PortRange,

    /// Set the range in the network namespace first, instead of failing if it differs
    #[arg(long)]
    set_range: bool,
}

#[derive(Args, Debug)]
struct Exhaust {
    #[command(flatten)]
    range: RangeOptions,

    /// Number of further connect() calls, which fail
    #[arg(long, default_value_t = 0)]
    extra: usize,

    /// Family: 4, 6 or mapped
    #[arg(long, default_value_t = Family::V4)]
    family: Family,

    /// Close the connections of the first half, so that their ports are in TIME_WAIT
    #[arg(long, conflicts_with = "extra")]
    waiting: bool,

    /// Print only the summary
    #[arg(long)]
    quiet: bool,
}

#[derive(Args, Debug)]
struct Threads {
    #[command(flatten)]
    range: RangeOptions,

    /// Number of threads that connect
    #[arg(long, default_value_t = 32)]
    threads: usize,

    /// Number of connect() calls of each thread
    #[arg(long, default_value_t = 4)]
    count: usize,
}

impl Truth {
    /// Runs the case and prints its result.
    pub fn run(self) -> Result<()> {
        if let Some(path) = &self.pid_file {
            write_pid(path)?;
        }
        if let Some(path) = &self.wait_file {
            while !path.exists() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        match self.case {
            Case::Rate {
                refused,
                threads,
                seconds,
            } => {
                let ends = if refused { Ends::Refused } else { Ends::Reset };
                let totals = rate(ends, threads, Duration::from_secs(seconds))?;
                write!(io::stdout(), "{totals}").context("printing the totals")
            }
            Case::Steady {
                range,
                hold,
                threads,
                pause_us,
                seconds,
            } => {
                let steady = Steady {
                    range: range.ready()?,
                    held: hold,
                    threads,
                    pause: Duration::from_micros(pause_us),
                    duration: Duration::from_secs(seconds),
                };
                write!(io::stdout(), "{}", steady.run()?).context("printing the totals")
            }
            Case::Crowd { threads, count } => {
                let ns = crowd::mean_of_least_ns(threads, count)?;
                writeln!(io::stdout(), "{:.3}", ns / 1e3).context("printing the mean")
            }
            Case::Hold {
                address,
                closed,
                open,
                close_every,
                rate,
            } => {
                let hold = Hold {
                    address,
                    closed,
                    open,
                    close_every,
                    rate,
                };
                hold.run()
            }
            Case::Lifetime { count } => {
                let ns = lifetime::least_ns(count)?;
                writeln!(io::stdout(), "{:.3}", ns as f64 / 1e3).context("printing the time")
            }
            Case::Exhaust(Exhaust {
                range,
                extra,
                family,
                waiting,
                quiet,
            }) => {
                let range = range.ready()?;
                let records = if waiting {
                    exhaust_waiting(range, family)?
                } else {
                    exhaust(range, family, extra)?
                };
                eprintln!("{}", Summary::of(&records));
                if quiet { Ok(()) } else { print(&records) }
            }
            Case::UdpLeast { count } => {
                let ns = udp::least_ns(count)?;
                writeln!(io::stdout(), "{:.3}", ns as f64 / 1e3).context("printing the least time")
            }
            Case::Udp { threads } => print_lines(UdpRecord::HEADER, &udp::udp(threads)?),
            case => print(&case.records()?),
        }
    }
}

impl Case {
    /// Returns the records of a case that has no other result.
    fn records(self) -> Result<Vec<Record>> {
        match self {
            Self::V4(Count { count }) => cases::plain("v4", Family::V4, count),
            Self::V6(Count { count }) => cases::plain("v6", Family::V6, count),
            Self::Mapped(Count { count }) => cases::plain("mapped", Family::Mapped, count),
            Self::BindPort(Count { count }) => cases::bound("bind-port", Explicit::Port, count),
            Self::BindAny(Count { count }) => cases::bound("bind-any", Explicit::PortAny, count),
            Self::BindAddress(Count { count }) => {
                cases::bound("bind-address", Explicit::Address, count)
            }
            Self::Refused(Count { count }) => cases::refused(count),
            Self::Unreachable(Count { count }) => {
                cases::unreachable("unreachable", &[Family::V4, Family::Mapped], count)
            }
            Self::V6Unreachable(Count { count }) => {
                cases::unreachable("v6-unreachable", &[Family::V6], count)
            }
            Self::Taken(Count { count }) => cases::taken(count),
            Self::TimeWait => cases::time_wait(),
            Self::Netns { count } => cases::netns(count),
            Self::Threads(Threads {
                range,
                threads,
                count,
            }) => cases::threads(threads, count, range.ready()?),
            Self::Nonblocking(Count { count }) => cases::nonblocking(count),
            Self::Retry(Count { count }) => cases::retry(count),
            Self::FastOpen(Count { count }) => ways::fast_open(count),
            Self::IoUring(Count { count }) => ways::io_uring(count),
            Self::Compat(Count { count }) => ways::compat(count),
            Self::Mptcp(Count { count }) => mptcp::mptcp(count),
            Self::Dies { threads, victims } => dies::dies(threads, victims),
            Self::Victim => dies::victim(),
            Self::Idle { seconds } => {
                thread::sleep(Duration::from_secs(seconds));
                Ok(Vec::new())
            }
            Self::Mixed => all::mixed(),
            Self::All => all::all(),
            Self::Rate { .. } | Self::Crowd { .. } | Self::Lifetime { .. } | Self::Exhaust(_) => {
                Ok(Vec::new())
            }
            Self::Udp { .. } | Self::UdpLeast { .. } | Self::Steady { .. } | Self::Hold { .. } => {
                Ok(Vec::new())
            }
        }
    }
}

impl RangeOptions {
    fn ready(&self) -> Result<PortRange> {
        if self.set_range {
            self.range.set()?;
        }
        self.range.check()?;
        Ok(self.range)
    }
}

/// Writes the file in one step, so that a waiting reader never sees a part of it.
fn write_pid(path: &Path) -> Result<()> {
    let draft = path.with_added_extension("draft");
    fs::write(&draft, format!("{}\n", std::process::id()))
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("writing the process id to {}", path.display()))
}

fn print(records: &[Record]) -> Result<()> {
    print_lines(Record::HEADER, records)
}

fn print_lines(header: &str, records: &[impl Display]) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    writeln!(out, "{header}")
        .and_then(|()| {
            records
                .iter()
                .try_for_each(|record| writeln!(out, "{record}"))
        })
        .and_then(|()| out.flush())
        .context("printing the lines of truth")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Truth::command().debug_assert();
    }
}
