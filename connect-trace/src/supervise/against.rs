//! The command with one strategy after the other, and a table of them.

use std::{fs, os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;

use super::{
    args::TryArgs,
    counts::{Counted, Made},
    price::Price,
    run::{Ended, Run},
    strategy::Strategy,
    supervisor::Work,
};
use crate::{
    compare::traced::Traced,
    connect::{Connect, PortRange},
    kernel::access,
    load::namespace,
    trace::signals::Signals,
};

/// Share of the range in TIME_WAIT at the start of a run that is told.
const MUCH: f64 = 0.01;

/// The runs of all strategies.
pub(super) struct Comparison {
    /// Description of the method, in words that follow "measured".
    pub(super) how: String,
    /// The range of ports of this process's network namespace, if it can be read.
    pub(super) range: Option<PortRange>,
    pub(super) repeats: u32,
    pub(super) rows: Vec<Row>,
    pub(super) warnings: Vec<String>,
    /// Status of the first run that failed, or of the last one.
    pub(super) status: ExitStatus,
}

/// The runs of a strategy.
pub(super) struct Row {
    pub(super) strategy: Strategy,
    pub(super) price: Option<Price>,
    pub(super) runs: Vec<Sample>,
}

/// One run.
pub(super) struct Sample {
    pub(super) repeat: u32,
    pub(super) status: ExitStatus,
    pub(super) took: Duration,
    pub(super) made: Made,
    /// Counts of the supervision, if there was one.
    pub(super) counted: Option<Counted>,
    /// Number of ports of all destinations in TIME_WAIT when the run began.
    pub(super) time_wait: Option<u64>,
}

/// Who measures.
enum Measure {
    Trace(Box<Traced>),
    /// The supervisor, and the reason.
    Supervisor(String),
}

impl Measure {
    fn of(args: &TryArgs) -> Self {
        if args.no_trace {
            return Self::Supervisor("--no-trace".to_owned());
        }
        match access::check().and_then(|()| Traced::start()) {
            Ok(traced) => Self::Trace(Box::new(traced)),
            Err(error) => Self::Supervisor(format!("no trace is possible: {error:#}")),
        }
    }

    fn how(&mut self) -> Result<String> {
        match self {
            Self::Trace(traced) => traced.how(),
            Self::Supervisor(why) => Ok(format!(
                "by the supervisor, which makes the connect() calls of all strategies ({why})"
            )),
        }
    }

    /// Makes a run, and measures it.
    fn run(
        &mut self,
        work: Work,
        make: impl FnOnce(Option<Work>) -> Result<Ended>,
    ) -> Result<(Ended, Made)> {
        match self {
            Self::Supervisor(_) => {
                let ended = make(Some(Work {
                    measures: true,
                    ..work
                }))?;
                let counted = ended.counted.as_ref();
                let made = counted.map(|counted| Made {
                    failed: counted.failed,
                    ..counted.made
                });
                Ok((ended, made.unwrap_or_default()))
            }
            Self::Trace(traced) => {
                let mut made = Made::default();
                let work = (work.strategy != Strategy::Default).then_some(work);
                let ended = traced.during(|connect| add(&mut made, connect), || make(work))?;
                // A window without a free port is a failure of a connect() that the program does not see.
                let retries = ended.counted.as_ref().map_or(0, |counted| counted.retries);
                made.failed = made.failed.saturating_sub(retries);
                Ok((ended, made))
            }
        }
    }
}

fn add(made: &mut Made, connect: &Connect) {
    match connect.port.number() {
        Some(port) if connect.errno == 0 => {
            made.add(port, connect.connect_ns as f64, connect.scanned)
        }
        _ => made.failed += 1,
    }
}

/// Runs the command with all strategies.
///
/// # Errors
/// If a run cannot be made; a command that fails is no error.
pub(super) fn compare(
    args: &TryArgs,
    runtime: &Runtime,
    signals: &mut Signals,
) -> Result<Comparison> {
    let mut warnings = Vec::new();
    let mut rows = Vec::new();
    for &strategy in &args.strategies {
        let price = (strategy != Strategy::Default).then(|| Price::measure(&args.work(strategy)));
        let price = price.transpose().unwrap_or_else(|error| {
            warnings.push(format!("the price of {strategy} is not known: {error:#}"));
            None
        });
        rows.push(Row {
            strategy,
            price,
            runs: Vec::new(),
        });
    }
    let mut measure = Measure::of(args);
    let range = namespace::port_range().ok();
    let mut first = true;
    let mut status: Option<ExitStatus> = None;
    for repeat in 1..=args.repeats {
        // Each strategy is first and last as often, so that what runs leave behind meets all of them.
        let order: Vec<usize> = match repeat % 2 {
            1 => (0..rows.len()).collect(),
            _ => (0..rows.len()).rev().collect(),
        };
        for row in order {
            let row = &mut rows[row];
            if let Some(pause) = args.pause
                && !first
            {
                runtime.block_on(wait(pause, signals))?;
            }
            first = false;
            log::info!("{}, run {repeat} of {}", row.strategy, args.repeats);
            let time_wait = in_time_wait();
            let (ended, made) = measure.run(args.work(row.strategy), |work| {
                let run = Run::start(&args.command, work)?;
                runtime.block_on(run.until_its_end(signals))
            })?;
            ended.warn();
            let failed = status.filter(|status| !status.success());
            status = failed.or(Some(ended.status));
            let sample = Sample {
                repeat,
                status: ended.status,
                took: ended.took,
                made,
                counted: ended.counted,
                time_wait,
            };
            let is_interrupted = sample.status.signal() == Some(libc::SIGINT);
            row.runs.push(sample);
            if is_interrupted {
                bail!("interrupted: the command ended by SIGINT");
            }
        }
    }
    warnings.extend(time_wait_warning(&rows, range, args.pause));
    Ok(Comparison {
        how: measure.how()?,
        range,
        repeats: args.repeats,
        rows,
        warnings,
        status: status.unwrap_or_default(),
    })
}

/// Waits between two runs. A signal ends the comparison.
async fn wait(pause: Duration, signals: &mut Signals) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        _ = signals.interrupt.recv() => bail!("interrupted between two runs"),
        _ = signals.terminate.recv() => bail!("terminated between two runs"),
        _ = signals.hangup.recv() => bail!("ended between two runs by SIGHUP"),
    }
}

fn time_wait_warning(
    rows: &[Row],
    range: Option<PortRange>,
    pause: Option<Duration>,
) -> Option<String> {
    let runs = rows.iter().flat_map(|row| &row.runs);
    let most = runs.filter_map(|run| run.time_wait).max()?;
    let ports = range?.ports();
    (most as f64 > f64::from(ports) * MUCH).then(|| {
        let pause = match pause {
            None => "--pause 60s waits until they are free",
            Some(_) => "a longer --pause waits until they are free",
        };
        format!(
            "up to {most} connections of this network namespace were in TIME_WAIT when a run began, of a range of {ports} \
             ports: a run may find ports taken by the one before it; {pause}"
        )
    })
}

/// Returns the number of connections in TIME_WAIT of this network namespace.
fn in_time_wait() -> Option<u64> {
    of_sockstat(&fs::read_to_string("/proc/self/net/sockstat").ok()?)
}

fn of_sockstat(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let mut words = line.split(' ').skip_while(|&word| word != "tw");
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_wait_is_read_from_the_line_of_tcp() {
        let text =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 31 alloc 8 mem 2\nUDP: inuse 1 mem 0\n";
        assert_eq!(of_sockstat(text), Some(31));
        assert_eq!(of_sockstat("TCP: inuse 5\n"), None);
        assert!(in_time_wait().is_some());
    }
}
