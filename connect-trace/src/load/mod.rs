//! A workload that opens connections by one strategy of choosing source ports, and the time of each
//! connection as user space saw it.
//!
//! `workload` holds the settings and makes the `plan` of each run; `process` starts the process that makes it
//! (`runner`: `namespace`, `listener`, the threads of `worker`, and the `order` of their attempts). The
//! attempts that come back are counted in `figures`, with the curve of `occupancy`; `text` and `json` write
//! the report, and `file` keeps the attempts.

pub(crate) mod args;
pub mod attempt;
mod cursor;
#[cfg(test)]
pub(crate) mod example;
pub(crate) mod features;
pub(crate) mod figures;
pub(crate) mod file;
mod files;
mod json;
mod limits;
mod listener;
pub mod log;
pub mod namespace;
pub(crate) mod occupancy;
mod order;
pub(crate) mod plan;
pub(crate) mod process;
pub(crate) mod progress;
pub mod runner;
pub(crate) mod socket;
pub(crate) mod strategy;
pub(crate) mod target;
mod text;
mod worker;
pub(crate) mod workload;

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Error, Result};

use self::{
    attempt::Attempt,
    features::Features,
    figures::Figures,
    file::LogFile,
    log::{FORMAT, Head, Run},
    plan::{Network, Plan, Protocol},
    progress::Progress,
    runner::Outcome,
};
use crate::{
    files::is_standard,
    kernel,
    load::args::{LoadArgs, WorkloadArgs},
    options::Format,
    term::{message::Stderr, stdout::stdout, terminal},
};

/// Least share of a rate that was asked for at which no warning is given.
const LEAST_OF_RATE: f64 = 0.99;

/// A completed run.
#[derive(Clone, Debug)]
pub struct Done {
    /// The plan of the run.
    pub plan: Plan,
    /// Summary of the run.
    pub outcome: Outcome,
    /// Statistics of its attempts.
    pub figures: Figures,
    /// A note if the strategy does not help on this kernel.
    pub caveat: Option<&'static str>,
}

impl Done {
    /// Duration of the run.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.outcome.total_ns as f64 / 1e9
    }

    /// Successful connections per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        if self.outcome.total_ns == 0 {
            return 0.0;
        }
        self.figures.successes() as f64 / self.seconds()
    }

    /// Number of attempts that ended before the first port of the other parity, if that shows that the
    /// kernel's search has completed its first pass; a search of UDP has no passes.
    #[must_use]
    pub fn first_pass(&self) -> Option<u32> {
        let has_passes = self.plan.protocol == Protocol::Tcp && self.plan.strategy.searches_all();
        self.figures.first_pass.filter(|_| has_passes)
    }

    /// Reasons to doubt the figures.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.caveat.map(str::to_owned).into_iter().collect();
        if let Some(drops) = self.outcome.listener_drops.filter(|&drops| drops > 0) {
            warnings.push(format!(
                "the listener had no room for every SYN (ListenDrops: {drops}), so the times of those connections \
                 are too long"
            ));
        }
        if self.outcome.held_back {
            warnings.push(
                "connections were opened faster than they could be counted, so the threads had to wait at \
                 times: more per second are possible"
                    .to_owned(),
            );
        }
        if let Some(rate) = self.plan.rate
            && self.figures.attempts as f64 / self.seconds() < f64::from(rate) * LEAST_OF_RATE
        {
            warnings.push(format!(
                "{rate} connections per second were asked for, and {:.0} attempts per second were made",
                self.figures.attempts as f64 / self.seconds()
            ));
        }
        if self.plan.close_above.is_some() && self.figures.failed.contains_key(&libc::EADDRNOTAVAIL)
        {
            warnings.push(
                "at times no port was free: the port of a closed connection stays in TIME_WAIT, on the loopback \
                 for a second (net.ipv4.tcp_tw_reuse)"
                    .to_owned(),
            );
        }
        if let Some(until) = self.plan.until_held
            && self.figures.most_held < until
        {
            warnings.push(format!(
                "the run should stop at {until} open connections, but no more than {} were reached",
                self.figures.most_held
            ));
        }
        warnings
    }
}

/// `connect-trace load`
///
/// # Errors
/// If a run could not be made. Attempts that fail are no error: they are results.
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    let plans = args.plans().map_err(Error::msg)?;
    let mut journal = Journal::prepare(args.common.csv.as_deref())?;
    let features = features_for(&plans)?;
    if let Some(target) = args.target {
        target::check(target, args.common.protocol.into())?;
        if !args.yes && !target::confirm(target, &plans)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut printed = Ok(());
    for (number, plan) in plans.into_iter().enumerate() {
        let done = make(plan, features, &mut journal)?;
        printed = print(&done, number == 0, &args.common);
        if printed.is_err() {
            break;
        }
    }
    // The attempts are kept even if a report could not be printed.
    journal.write()?;
    printed?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the output of the reports: stdout, or stderr if the attempts go to stdout.
pub(crate) fn report_out(args: &WorkloadArgs) -> Box<dyn Write> {
    if args.csv.as_deref().is_some_and(is_standard) {
        Box::new(Stderr)
    } else {
        Box::new(stdout())
    }
}

fn print(done: &Done, is_first: bool, args: &WorkloadArgs) -> io::Result<()> {
    let mut out = report_out(args);
    match args.format {
        Format::Text => {
            if !is_first {
                writeln!(out)?;
            }
            out.write_all(text::render(done, terminal::paint()).as_bytes())?;
        }
        Format::Json => json::write(&mut out, done)?,
    }
    out.flush()
}

/// Returns the features of the kernel, if one of the plans depends on them.
///
/// # Errors
/// If the kernel does not support a plan.
pub fn features_for(plans: &[Plan]) -> Result<Option<Features>> {
    let needed = |plan: &Plan| {
        let strategy = plan.strategy;
        strategy.needs_port_range()
            || strategy.step_width().is_some()
            || plan.protocol == Protocol::UdpLite
    };
    if !plans.iter().any(needed) {
        return Ok(None);
    }
    let features = match process::features() {
        Ok(features) => features,
        // This process may be allowed to use the present network only: then the run itself shows what the
        // kernel refuses.
        Err(_) if matches!(plans[0].network, Network::Present { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    for plan in plans {
        features.check(plan.strategy, plan.protocol)?;
    }
    Ok(Some(features))
}

/// Makes a run, and keeps its attempts in the journal.
///
/// # Errors
/// If there was no run, or its attempts cannot be kept.
pub fn make(plan: Plan, features: Option<Features>, journal: &mut Journal) -> Result<Done> {
    let mut progress = Progress::new(plan.strategy.to_string(), plan.connections);
    let mut figures = Figures::default();
    let outcome = process::make(
        &plan,
        &mut |done, errors| progress.update(done, errors),
        &mut |attempts| {
            for attempt in &attempts {
                figures.record(attempt, plan.range);
            }
            journal.keep(&attempts)
        },
    )?;
    let caveat = features.and_then(|features| features.caveat(plan.strategy, plan.protocol));
    let done = Done {
        plan,
        outcome,
        figures,
        caveat,
    };
    journal.end_run(&done);
    Ok(done)
}

/// The attempts of all runs, for `--csv`.
pub struct Journal {
    file: Option<LogFile>,
    began_unix_s: u64,
    runs: Vec<Run>,
}

impl Journal {
    /// Keeps nothing if there is no file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn prepare(path: Option<&Path>) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            file: path.map(LogFile::prepare).transpose()?,
            began_unix_s: now.map_or(0, |since| since.as_secs()),
            runs: Vec::new(),
        })
    }

    /// Keeps attempts of the current run, if there is a file for them.
    fn keep(&mut self, attempts: &[Attempt]) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let run = self.runs.len() as u16;
        attempts
            .iter()
            .try_for_each(|&attempt| file.add(&Attempt { run, ..attempt }))
    }

    /// Ends the current run.
    fn end_run(&mut self, done: &Done) {
        let run = done.plan.run(done.outcome.total_ns, done.figures.attempts);
        self.runs.push(run);
    }

    /// Writes the file, if there is one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(self) -> Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        let head = Head {
            connect_trace_load: FORMAT,
            kernel: kernel::release(),
            began_unix_s: self.began_unix_s,
            runs: self.runs,
        };
        file.write(&head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_figures_doubtful_is_told_and_nothing_else() {
        let mut done = example::done();
        done.outcome.listener_drops = Some(0);
        assert!(done.warnings().is_empty());
        done.outcome.listener_drops = Some(3);
        assert!(done.warnings()[0].contains("ListenDrops: 3"));
        done.outcome.listener_drops = None;
        done.outcome.held_back = true;
        assert!(done.warnings()[0].contains("the threads had to wait"));
        done.outcome.held_back = false;
        done.plan.close_above = Some(100);
        assert!(done.warnings()[0].contains("TIME_WAIT"));
        done.plan.close_above = None;
        done.plan.until_held = Some(199);
        assert!(done.warnings().is_empty(), "199 were open");
        done.plan.until_held = Some(200);
        assert!(done.warnings()[0].contains("no more than 199"));
    }

    #[test]
    fn only_a_search_of_tcp_has_a_first_pass() {
        let mut done = example::done();
        assert_eq!(done.first_pass(), None, "select-test-repeat");
        done.plan.strategy = strategy::Strategy::Default;
        assert_eq!(done.first_pass(), Some(1));
        done.plan.protocol = Protocol::Udp;
        assert_eq!(done.first_pass(), None);
    }
}
