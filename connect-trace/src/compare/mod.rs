//! `connect-trace compare`: several strategies with the same workload, and a recommendation.
//!
//! `strategy_result` holds the runs of a strategy, `advice` the recommendation, `how` the lines that carry it out;
//! `text` and `json` write all of it.
//! `traced` traces the runs if that is possible.

mod advice;
pub(crate) mod args;
mod how;
mod json;
mod strategy_result;
mod text;
pub(crate) mod traced;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Error, Result};
use fastrand::Rng;

pub use self::strategy_result::{Sample, Spread, StrategyResult};
use self::{how::Language, traced::Traced};
use crate::connect::PortRange;
use crate::{
    compare::args::CompareArgs,
    kernel::access,
    load::args::WorkloadArgs,
    load::{
        self, Done, Journal,
        features::Features,
        plan::{Plan, Protocol},
        process,
        strategy::Strategy,
    },
    options::Format,
    term::terminal,
};

/// Watches the runs from the kernel's side.
pub trait Watcher {
    /// Describes the method, in words that follow "measured". Called after all runs.
    ///
    /// # Errors
    /// If the method cannot be determined.
    fn how(&mut self) -> Result<String>;

    /// Calls `run` to make a run, and returns it with the mean number of candidate ports that a connect() of
    /// it scanned, if known.
    ///
    /// # Errors
    /// If `run` fails.
    fn watch(
        &mut self,
        plan: &Plan,
        run: &mut dyn FnMut() -> Result<Done>,
    ) -> Result<(Done, Option<f64>)>;
}

/// Measurement from user space only, with the reason.
#[derive(Clone, Debug)]
struct UserSpace(String);

/// Returns a trace if it is wanted and possible on this host, or else a measurement from user space.
fn watcher(args: &CompareArgs) -> Box<dyn Watcher> {
    if args.no_trace {
        return Box::new(UserSpace("--no-trace".to_owned()));
    }
    match access::check().and_then(|()| Traced::start()) {
        Ok(traced) => Box::new(traced),
        Err(error) => Box::new(UserSpace(format!("no trace is possible: {error:#}"))),
    }
}

impl Watcher for UserSpace {
    fn how(&mut self) -> Result<String> {
        Ok(format!("from user space only: {}", self.0))
    }

    fn watch(
        &mut self,
        _: &Plan,
        run: &mut dyn FnMut() -> Result<Done>,
    ) -> Result<(Done, Option<f64>)> {
        run().map(|done| (done, None))
    }
}

/// The results of a comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The kernel's release.
    pub kernel: String,
    /// Description of the method.
    pub how: String,
    /// The range of ports.
    pub range: PortRange,
    /// Protocol of the sockets.
    pub protocol: Protocol,
    /// True for IPv6.
    pub v6: bool,
    /// Number of connections that each run requested.
    pub connections: u32,
    /// Number of threads that opened them.
    pub threads: u16,
    /// Number of runs of each strategy.
    pub repeats: u32,
    /// Seed of the order of the runs and of each run.
    pub seed: u64,
    /// Features of the kernel.
    pub features: Features,
    /// Strategies that this kernel refuses.
    pub left_out: Vec<Strategy>,
    /// Results, one for each strategy.
    pub rows: Vec<StrategyResult>,
    /// Language of the lines that carry out the recommendation.
    pub language: Option<Language>,
}

/// `connect-trace compare`
///
/// # Errors
/// If a run could not be made.
pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let mut journal = Journal::prepare(args.common.csv.as_deref())?;
    let features = process::features()?;
    let mut watcher = watcher(args);
    let comparison = compare(args, features, &mut *watcher, &mut journal)?;
    let printed = print(&comparison, &args.common);
    // The attempts are kept even if the comparison could not be printed.
    journal.write()?;
    printed?;
    Ok(ExitCode::SUCCESS)
}

fn print(comparison: &Comparison, args: &WorkloadArgs) -> io::Result<()> {
    let mut out = load::report_out(args);
    match args.format {
        Format::Text => out.write_all(text::render(comparison, terminal::paint()).as_bytes())?,
        Format::Json => json::write(&mut out, comparison)?,
    }
    out.flush()
}

fn compare(
    args: &CompareArgs,
    features: Features,
    watcher: &mut dyn Watcher,
    journal: &mut Journal,
) -> Result<Comparison> {
    let (left_out, strategies) = choose(args, features)?;
    let mut rows: Vec<StrategyResult> = strategies
        .iter()
        .copied()
        .map(StrategyResult::new)
        .collect();
    let plans = in_random_order(args, &strategies)?;
    let first = plans[0].1.clone();
    let count = plans.len();
    for (number, (row, plan)) in plans.into_iter().enumerate() {
        log::info!("run {} of {count}: {}", number + 1, plan.strategy);
        let (done, scanned) = watcher.watch(&plan, &mut || {
            load::make(plan.clone(), Some(features), journal)
        })?;
        rows[row].add(&done, scanned);
    }
    Ok(Comparison {
        kernel: crate::kernel::release(),
        how: watcher.how()?,
        range: first.range,
        protocol: first.protocol,
        v6: first.v6,
        connections: first.connections,
        threads: first.threads,
        repeats: args.repeats,
        seed: args.common.seed,
        features,
        left_out,
        rows,
        language: args.how,
    })
}

/// Returns the strategies that are left out because the kernel refuses them, and those to run.
///
/// # Errors
/// If the kernel refuses all of them, or one that may not be left out.
fn choose(args: &CompareArgs, features: Features) -> Result<(Vec<Strategy>, Vec<Strategy>)> {
    let check = |strategy: &Strategy| features.check(*strategy, args.common.protocol.into());
    let (refused, offered): (Vec<_>, Vec<_>) = args
        .strategies()
        .into_iter()
        .partition(|strategy| check(strategy).is_err());
    let may_leave_out = args.strategies.is_empty() || args.skip_refused;
    if offered.is_empty() || !may_leave_out {
        refused.iter().try_for_each(check)?;
    }
    Ok((refused, offered))
}

/// Returns every run with the index of its strategy, in random order, so that disturbances affect all
/// strategies alike.
fn in_random_order(args: &CompareArgs, strategies: &[Strategy]) -> Result<Vec<(usize, Plan)>> {
    let mut plans = Vec::new();
    for (row, &strategy) in strategies.iter().enumerate() {
        for repeat in 1..=args.repeats {
            plans.push((row, args.plan(strategy, repeat).map_err(Error::msg)?));
        }
    }
    Rng::with_seed(args.common.seed).shuffle(&mut plans);
    Ok(plans)
}

#[cfg(test)]
pub(crate) mod example;

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    /// Names of the strategies that are left out and of those that are run, on a kernel that refuses
    /// IP_LOCAL_PORT_RANGE.
    fn chosen(arguments: &[&str]) -> Result<(String, String)> {
        let words = [&["connect-trace", "compare"], arguments].concat();
        let Some(Command::Compare(args)) = Cli::try_parse_from(words)?.command else {
            panic!("compare is asked for");
        };
        let old = Features {
            port_range: false,
            mixed: false,
            udplite: true,
            step_width: false,
        };
        let names = |of: Vec<Strategy>| of.iter().map(|one| format!("{one} ")).collect::<String>();
        choose(&args, old).map(|(left_out, strategies)| (names(left_out), names(strategies)))
    }

    #[test]
    fn a_strategy_that_is_refused_is_left_out_unless_it_is_named() {
        let all = chosen(&["--window", "500"]).unwrap();
        let left_out = "window-500 window-retry-500 window-cursor-500 full-range step-width-128 ";
        let run = "default addresses select-test-repeat cursor ";
        assert_eq!(all, (left_out.to_owned(), run.to_owned()));
        let error = chosen(&["default", "full-range"]).unwrap_err().to_string();
        assert!(
            error.contains("full-range sets IP_LOCAL_PORT_RANGE"),
            "{error}"
        );
    }

    #[test]
    fn a_strategy_that_is_named_may_be_skipped_but_not_all_of_them() {
        let some = chosen(&["default", "full-range", "--skip-refused"]).unwrap();
        assert_eq!(some, ("full-range ".to_owned(), "default ".to_owned()));
        let error = chosen(&["full-range", "--skip-refused"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("full-range sets IP_LOCAL_PORT_RANGE"),
            "{error}"
        );
    }
}
