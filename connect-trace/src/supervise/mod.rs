//! `connect-trace try`: runs a command whose connect() calls use a strategy, without a change to it.
//!
//! A seccomp filter (`filter`) stops each connect() of the command and its children, and a `listener` tells the
//! `supervisor`, which duplicates the descriptor (`reach`), sets options of the `socket`, and lets the call go on. No
//! privileges are needed. A `standby` goes on if the supervisor ends.

pub(crate) mod args;
mod counts;
mod filter;
mod listener;
mod namespaces;
mod reach;
mod run;
mod socket;
pub mod standby;
mod strategy;
mod supervisor;
mod text;

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;

use self::{run::Run, supervisor::Work};
use crate::{
    load::{plan::Protocol, process},
    supervise::args::TryArgs,
    term::message::{self, say},
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
    let strategy = args.strategies[0];
    match process::features() {
        Ok(features) => {
            features.check(strategy.of_load(), Protocol::Tcp)?;
            if let Some(caveat) = features.caveat(strategy.of_load(), Protocol::Tcp) {
                log::warn!("{caveat}");
            }
        }
        // The strategy is tried all the same: its failures are counted.
        Err(error) => log::info!("what this kernel can do was not tried: {error:#}"),
    }
    let work = Work {
        strategy,
        addresses: args.addresses.clone(),
        measures: false,
    };
    let run = Run::start(&args.command, work)?;
    let ended = runtime.block_on(run.until_its_end(&mut signals))?;
    if !args.quiet {
        let text = text::counted(strategy, &ended.counted);
        let _ = message::Stderr.write_all(text.as_bytes());
    }
    if ended.goes_on {
        say!(
            "processes of the command still run: the process ct-standby ({}) goes on with {strategy} until they end",
            ended.standby
        );
    }
    Ok(exit_as(ended.status))
}
