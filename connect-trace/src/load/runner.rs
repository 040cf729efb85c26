//! The process that makes one run. Only a process with a single thread can enter a namespace, and each run needs its
//! own. The process reads its job from stdin and reports on stdout, with a line of JSON for each message.

use std::{
    io::{self, Write},
    net::IpAddr,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    attempt::{self, Attempt},
    features::{self, Features},
    limits, listener, namespace,
    order::Order,
    plan::{Network, Plan, Protocol},
    socket::{Socket, raw},
    worker::{self, Work},
};

/// Interval of progress messages.
const REPORT: Duration = Duration::from_millis(100);

/// Interval of progress messages if attempts are sent as well.
const REPORT_ATTEMPTS: Duration = Duration::from_millis(20);

/// Maximum number of attempts in a message.
const MOST_ATTEMPTS: usize = 1024;

/// The job of a runner.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Job {
    /// Finds out which features the kernel has.
    Probe,
    /// Makes a run.
    Run(Plan),
}

/// A message of the runner.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Message {
    /// Progress of the run.
    Progress { done: u32, errors: u32 },
    /// Attempts that have ended, in this order, and after all those of earlier messages: [`attempt::lines`].
    Attempts(String),
    /// Reason of a failure; no message follows.
    Failed(String),
    /// Features of the kernel; no message follows.
    Features(Features),
    /// Summary of the run, after all of its attempts; no message follows.
    Done(Outcome),
}

/// Summary of a run.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Time from the beginning to the end of the last attempt.
    pub total_ns: u64,
    /// Connections that the listener's queue had no room for (`ListenDrops`); `None` if it is not known.
    pub listener_drops: Option<u64>,
    /// True if threads had to wait because attempts were not collected as fast as they were made.
    pub held_back: bool,
}

/// Does the job that stdin describes.
///
/// # Errors
/// If stdin or stdout fail; other errors are reported on stdout.
pub fn run() -> Result<()> {
    let job: Job = serde_json::from_reader(io::stdin().lock())
        .context("connect-trace starts this command by itself; its stdin holds no job")?;
    let done = match &job {
        Job::Probe => features::of_this_kernel().map(Message::Features),
        Job::Run(plan) => make(plan).map(Message::Done),
    };
    say(&done.unwrap_or_else(|error| Message::Failed(format!("{error:#}"))))
}

fn say(message: &Message) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, message)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

fn say_attempts(attempts: &[Attempt]) -> Result<()> {
    attempts
        .chunks(MOST_ATTEMPTS)
        .try_for_each(|few| say(&Message::Attempts(attempt::lines(few)?)))
}

fn make(plan: &Plan) -> Result<Outcome> {
    let private = matches!(plan.network, Network::Private { .. });
    let per_table = limits::connections_per_table()?;
    if private {
        namespace::enter()?;
        namespace::set_port_range(plan.range)?;
        if let Some(width) = plan.strategy.step_width() {
            namespace::set_step_width(width)?;
        }
        namespace::add_addresses(&plan.sources)?;
    }
    check_sources(plan)?;
    let held = plan.close_above.unwrap_or(plan.connections);
    check_share(plan, per_table)?;
    limits::check(held)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (mut queues, mut acceptors) = (Vec::new(), Vec::new());
        if private && plan.close_above.is_none() {
            queues = listener::open_queues(plan)?;
        } else if private {
            acceptors = listener::start_acceptors(scope, plan, held, per_table, &stop)?;
        }
        let result = connect_all(plan, per_table, || drop(queues));
        stop.store(true, Ordering::Relaxed);
        for acceptor in acceptors {
            acceptor
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .context("the thread that accepts connections ended")?;
        }
        result
    })
}

/// Runs the threads, and calls `close` before they close their connections: closing the listeners resets
/// connections that are not accepted, so that none remains.
fn connect_all(plan: &Plan, per_table: usize, close: impl FnOnce()) -> Result<Outcome> {
    let work = &Work::new(plan, per_table);
    let mut order = Order::default();
    let running = &AtomicUsize::new(usize::from(plan.threads));
    thread::scope(|scope| {
        let (finished, all_finished) = mpsc::channel();
        let mut threads = Vec::new();
        for thread in 0..plan.threads {
            let finished = finished.clone();
            let started = worker::start(scope, move || {
                work.run(thread, move || {
                    if running.fetch_sub(1, Ordering::Relaxed) == 1 {
                        // Sending fails only if the receiver is gone.
                        let _ = finished.send(work.elapsed_ns());
                    }
                })
            });
            match started {
                Ok(started) => threads.push(started),
                Err(error) => {
                    work.fail();
                    work.release();
                    return Err(error);
                }
            }
        }
        let every = match plan.close_above {
            Some(_) => REPORT_ATTEMPTS,
            None => REPORT,
        };
        let total_ns = loop {
            match all_finished.recv_timeout(every) {
                Ok(total_ns) => break total_ns,
                Err(RecvTimeoutError::Disconnected) => break work.elapsed_ns(),
                Err(RecvTimeoutError::Timeout) => {
                    // The process that started this one is gone.
                    if report(plan, work, &mut order).is_err() {
                        work.fail();
                    }
                }
            }
        };
        let outcome = Outcome {
            total_ns,
            listener_drops: match plan.network {
                Network::Private { .. } => namespace::tcp_counter("ListenDrops"),
                Network::Present { .. } => None,
            },
            held_back: work.held_back(),
        };
        close();
        work.release();
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        work.collect(&mut order);
        say_attempts(&order.take_until(u64::MAX))?;
        Ok(outcome)
    })
}

/// Reports the progress. A run that closes connections can last for any time, so its attempts are sent while it runs;
/// a run that holds its connections has at most as many attempts as ports, and sends them when it is over.
fn report(plan: &Plan, work: &Work, order: &mut Order) -> Result<()> {
    let until_ns = work.collect(order);
    if plan.close_above.is_some() {
        say_attempts(&order.take_until(until_ns))?;
    }
    let progress = work.progress();
    say(&Message::Progress {
        done: progress.done,
        errors: progress.errors,
    })
}

/// Checks that this network has the source addresses of the plan.
fn check_sources(plan: &Plan) -> Result<()> {
    for &source in &plan.sources {
        if let Err(error) = has(source, plan.v6) {
            match plan.network {
                Network::Private { .. } => bail!(
                    "no such address: {source} ({error}): a private namespace has only those of the loopback; \
                     give a number of addresses, or some of 127.0.0.0/8"
                ),
                Network::Present { .. } => {
                    bail!("no such address: {source} ({error}): give addresses of this machine")
                }
            }
        }
    }
    Ok(())
}

fn has(address: IpAddr, v6: bool) -> io::Result<()> {
    /// Maximum time until a new IPv6 address can be used.
    const SETTLING: Duration = Duration::from_secs(1);
    let begin = Instant::now();
    loop {
        let bound = Socket::open(Protocol::Udp, v6)?.bind(&raw(address, 0));
        if bound.is_ok() || !v6 || begin.elapsed() > SETTLING {
            return bound;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Checks that each thread can hold its share if connections are closed: a thread can close only connections
/// in its own table of files.
fn check_share(plan: &Plan, per_table: usize) -> Result<()> {
    let Some(all) = plan.close_above else {
        return Ok(());
    };
    let most = per_table.saturating_mul(usize::from(plan.threads));
    if all as usize > most {
        bail!(
            "with --close, the limit of open files allows {most} open connections, but {all} are requested: \
             lower --until-occupancy, raise --threads, or raise the limit (ulimit -Hn)"
        );
    }
    Ok(())
}
