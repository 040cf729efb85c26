//! `connect-trace serve`: a trace without an end, whose figures a fleet's monitoring reads over HTTP. `connect-trace
//! mitigate` is such a service too, whose trace names the routes on which it acts.

pub mod args;
pub mod config;
mod http;
mod listen;
mod manager;
pub mod mitigate;
mod page;
mod printer;
mod privileges;
pub mod rehearsal;
mod reload;
mod request;
mod service;

use std::process::ExitCode;

use anyhow::Result;
use tokio::{sync::mpsc, task::LocalSet};

use self::{
    args::ServeArgs, listen::Listeners, manager::Manager, request::WAITING, service::Service,
};
use crate::{
    clock,
    kernel::access,
    overhead::process_usage::give_back_memory,
    term::message::say,
    trace::{priority::without_huge_pages, signals::Signals},
};

/// Serves until a signal.
///
/// # Errors
/// If an address cannot be listened on, or tracing cannot start.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    access::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    without_huge_pages();
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let signals = Signals::catch()?;
        // Opened before the probes are attached: an address that is taken ends the command before it has cost anything.
        let default = args.mitigates.is_none();
        let listeners = Listeners::open(&args.listen, default)?;
        let mut service = Service::start(args)?;
        give_back_memory();
        clock::read_time_zone();
        let sandbox = privileges::give_up(args, service.probes(), &listeners)?;
        if !args.quiet {
            say!("{sandbox}");
            if let Some(mitigates) = &args.mitigates {
                say!("Mitigating: {}.", mitigates.settings);
            }
        }
        let mut manager = Manager::of_this_process(service.status(&listeners));
        let (requests, waiting) = mpsc::channel(WAITING);
        for listener in listeners.all {
            if !args.quiet {
                say!("Serving on {listener}.");
            }
            tokio::task::spawn_local(http::serve(listener, requests.clone()));
        }
        let ended = service.run(signals, waiting, &mut manager).await;
        ended.and(service.finish())
    })?;
    Ok(ExitCode::SUCCESS)
}
