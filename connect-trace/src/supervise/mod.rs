//! `connect-trace try`: runs a command whose connect() calls use a strategy, without a change to it.
//!
//! A seccomp filter (`filter`) stops each connect() of the command and its children, and a `listener` tells the
//! `supervisor`, which duplicates the descriptor (`reach`), sets options of the `socket`, and lets the call go on. No
//! privileges are needed. A `standby` goes on if the supervisor ends. `against` compares strategies, and `price` measures
//! what supervision costs.

mod against;
pub(crate) mod args;
mod counts;
mod filter;
mod json;
mod listener;
mod namespaces;
pub mod price;
mod reach;
mod run;
mod socket;
pub mod standby;
mod strategy;
mod supervisor;
mod text;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Result;

use self::{
    run::{Ended, Run},
    strategy::Strategy,
    supervisor::Work,
};
use crate::{
    files::whole::WholeFile,
    load::{plan::Protocol, process},
    options::Format,
    supervise::args::TryArgs,
    term::{
        message::{Stderr, say},
        paint::Paint,
    },
    trace::{child::exit_as, signals::Signals},
};

/// `connect-trace try`
///
/// # Errors
/// If the command cannot be run under supervision.
pub fn run(args: &TryArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::catch()?
    };
    let output = args.output.as_deref();
    let output = output
        .map(|path| WholeFile::replacing("--output", path))
        .transpose()?;
    check(&args.strategies)?;
    let status = if args.against {
        let comparison = against::compare(args, &runtime, &mut signals)?;
        print(output, |out| match args.format {
            Format::Text => {
                out.write_all(text::comparison(&comparison, Paint::default()).as_bytes())
            }
            Format::Json => json::comparison(out, &comparison),
        })?;
        comparison.status
    } else {
        let strategy = args.strategies[0];
        let run = Run::start(&args.command, Some(args.work(strategy)))?;
        let ended = runtime.block_on(run.until_its_end(&mut signals))?;
        ended.warn();
        if let Some(counted) = &ended.counted
            && (!args.quiet || output.is_some())
        {
            print(output, |out| match args.format {
                Format::Text => out.write_all(text::run(strategy, counted).as_bytes()),
                Format::Json => json::run(
                    out,
                    strategy,
                    ended.status,
                    ended.took.as_secs_f64(),
                    counted,
                ),
            })?;
        }
        ended.status
    };
    Ok(exit_as(status))
}

impl TryArgs {
    /// Returns the work for a strategy.
    fn work(&self, strategy: Strategy) -> Work {
        Work {
            strategy,
            addresses: self.addresses.clone(),
            measures: false,
        }
    }
}

impl Ended {
    /// Tells who supervises processes that outlive the command.
    fn warn(&self) {
        if let Some(standby) = self.goes_on {
            log::warn!(
                "processes of the command still run: the process ct-standby ({standby}) supervises them until they end"
            );
        }
    }
}

/// Checks that this kernel can carry out the strategies.
fn check(strategies: &[Strategy]) -> Result<()> {
    let features = match process::features() {
        Ok(features) => features,
        // The strategies are tried all the same: calls that the kernel refuses are counted.
        Err(error) => {
            log::info!("the features of this kernel are not known: {error:#}");
            return Ok(());
        }
    };
    for strategy in strategies.iter().map(|strategy| strategy.of_load()) {
        features.check(strategy, Protocol::Tcp)?;
        if let Some(caveat) = features.caveat(strategy, Protocol::Tcp) {
            say!("connect-trace: warning: {caveat}");
        }
    }
    Ok(())
}

/// Prints to the file of `--output`, or else on stderr, because stdout is the command's.
fn print(
    output: Option<WholeFile>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    match output {
        Some(file) => file.write(|mut file| fill(&mut file)),
        None => Ok(fill(&mut Stderr)?),
    }
}
