//! A workload that opens connections by one strategy of choosing source ports, and what each cost as user
//! space saw it.
//!
//! `workload` is what was asked for and makes the `plan` of each run; `process` starts the process that
//! makes it (`runner`: `namespace`, `listener`, and the threads of `worker`); `figures` are made from the
//! attempts that come back, `text` and `json` say them, and `file` keeps the attempts.

pub mod attempt;
#[cfg(test)]
pub(crate) mod example;
pub mod features;
pub mod figures;
pub mod file;
mod files;
mod json;
mod limits;
mod listener;
pub mod log;
mod namespace;
pub mod plan;
pub mod process;
pub mod progress;
pub mod runner;
mod socket;
pub mod strategy;
pub mod target;
mod text;
mod worker;
pub mod workload;

use std::{
    io::{self, Write as _},
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
    cli::{Format, LoadArgs},
    kernel,
    report::terminal,
    term::stdout::stdout,
};

/// A run that was made.
#[derive(Clone, Debug)]
pub struct Done {
    /// What was to be done.
    pub plan: Plan,
    /// It as a whole.
    pub outcome: Outcome,
    /// What its attempts come to.
    pub figures: Figures,
    /// What the strategy does not do on this kernel.
    pub caveat: Option<&'static str>,
}

impl Done {
    /// Time of the run.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.outcome.total_ns as f64 / 1e9
    }

    /// Connections that came about in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        if self.outcome.total_ns == 0 {
            return 0.0;
        }
        self.figures.successes() as f64 / self.seconds()
    }

    /// How many attempts came before the first port of the other parity, where that says that the kernel's
    /// search has gone through its first pass; UDP has no passes.
    #[must_use]
    pub fn first_pass(&self) -> Option<u32> {
        let has_passes = self.plan.protocol == Protocol::Tcp && self.plan.strategy.searches_all();
        self.figures.first_pass.filter(|_| has_passes)
    }

    /// What makes the figures doubtful.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.caveat.map(str::to_owned).into_iter().collect();
        if let Some(drops) = self.outcome.listener_drops.filter(|&drops| drops > 0) {
            warnings.push(format!(
                "the listener had no room for {drops} of the SYNs (ListenDrops), so that the times of those \
                 connections are too long"
            ));
        }
        if self.plan.close_above.is_some() && self.figures.failed.contains_key(&libc::EADDRNOTAVAIL)
        {
            warnings.push(
                "no port was free at times: that of a closed connection stays in TIME_WAIT, on the loopback \
                 for a second (net.ipv4.tcp_tw_reuse)"
                    .to_owned(),
            );
        }
        if let Some(until) = self.plan.until_held
            // Other threads' connections may not have been counted yet when the last one began.
            && self.figures.most_held + u32::from(self.plan.threads) <= until
        {
            warnings.push(format!(
                "{until} open connections are the occupancy to end at, and no more than {} came about",
                self.figures.most_held
            ));
        }
        warnings
    }
}

/// `connect-trace load`
///
/// # Errors
/// Says why a run could not be made. Attempts that fail are no error: they are what is measured.
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    let plans = args.plans().map_err(Error::msg)?;
    let mut journal = Journal::prepare(args.common.csv.as_deref().map(LogFile::prepare))?;
    let features = features_for(&plans)?;
    if let Some(target) = args.target {
        target::check(target, args.common.protocol.into())?;
        if !args.yes && !target::confirm(target, &plans)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut printed = Ok(());
    for (number, plan) in plans.into_iter().enumerate() {
        let (done, attempts) = make(plan, features)?;
        journal.add(&done, attempts);
        printed = print(&done, number == 0, args.common.format);
        if printed.is_err() {
            break;
        }
    }
    // The runs that were made are kept, if they could be printed or not.
    journal.write()?;
    printed?;
    Ok(ExitCode::SUCCESS)
}

fn print(done: &Done, is_first: bool, format: Format) -> io::Result<()> {
    let mut out = stdout();
    match format {
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

/// What the kernel offers, where any of these has to know it.
///
/// # Errors
/// Where it does not offer what they need.
pub fn features_for(plans: &[Plan]) -> Result<Option<Features>> {
    let needed =
        |plan: &Plan| plan.strategy.needs_port_range() || plan.protocol == Protocol::UdpLite;
    if !plans.iter().any(needed) {
        return Ok(None);
    }
    let features = match process::features() {
        Ok(features) => features,
        // The present network may be all that this process has: then the run itself shows it.
        Err(_) if matches!(plans[0].network, Network::Present { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    for plan in plans {
        features.check(plan.strategy, plan.protocol)?;
    }
    Ok(Some(features))
}

/// Makes a run: what it came to, and its attempts.
///
/// # Errors
/// Says why there was no run.
pub fn make(plan: Plan, features: Option<Features>) -> Result<(Done, Vec<Attempt>)> {
    let mut progress = Progress::new(plan.strategy.to_string(), plan.connections);
    let (outcome, attempts) = process::make(&plan, &mut |done, errors| {
        progress.update(done, errors);
    })?;
    let figures = Figures::of(&attempts, plan.range);
    let caveat = features.and_then(|features| features.caveat(plan.strategy, plan.protocol));
    let done = Done {
        plan,
        outcome,
        figures,
        caveat,
    };
    Ok((done, attempts))
}

/// The attempts of all runs, for `--csv`.
pub struct Journal {
    file: Option<LogFile>,
    began_unix_s: u64,
    runs: Vec<Run>,
    attempts: Vec<Attempt>,
}

impl Journal {
    /// Keeps nothing where there is no file.
    ///
    /// # Errors
    /// That of the file.
    pub fn prepare(file: Option<Result<LogFile>>) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            file: file.transpose()?,
            began_unix_s: now.map_or(0, |since| since.as_secs()),
            runs: Vec::new(),
            attempts: Vec::new(),
        })
    }

    /// Keeps the attempts of a run, if there is a file for them.
    pub fn add(&mut self, done: &Done, attempts: Vec<Attempt>) {
        if self.file.is_none() {
            return;
        }
        let number = self.runs.len() as u16;
        let total_ns = done.outcome.total_ns;
        self.runs
            .push(done.plan.run(total_ns, attempts.len() as u64));
        let attempts = attempts.into_iter();
        self.attempts.extend(attempts.map(|attempt| Attempt {
            run: number,
            ..attempt
        }));
    }

    /// Writes the file, if there is one.
    ///
    /// # Errors
    /// Where it cannot be written.
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
        file.write(&head, &self.attempts)
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
        assert!(done.warnings()[0].contains("3 of the SYNs"));
        done.outcome.listener_drops = None;
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
