//! The command `connect-trace`.

#![warn(clippy::disallowed_methods, clippy::print_stderr, clippy::print_stdout)]

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use connect_trace::{
    check,
    cli::{Cli, Command, completions, man},
    compare, explain, figures, load, ports, replay, serve, supervise,
    term::{
        self, message,
        stdout::{Refused, stdout, unless_closed},
    },
    trace::{self, config::Config},
};
use log::LevelFilter;

fn main() -> ExitCode {
    let ended = Cli::read().map_or_else(usage, run).and_then(|status| {
        unless_closed(stdout().flush().map_err(Into::into))?;
        Ok(status)
    });
    match ended {
        Ok(status) => status,
        Err(error) if Refused::of(&error).is_some_and(Refused::is_closed) => ExitCode::SUCCESS,
        Err(error) => {
            message::failure(&error);
            // The keys of a file are options.
            match error.is::<serve::config::Mistaken>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

fn run(mut cli: Cli) -> Result<ExitCode> {
    if let Some(Command::Serve(args)) = &mut cli.command {
        **args = serve::config::read(args)?;
    }
    let verbose = match &cli.command {
        Some(Command::Serve(args)) => args.verbose,
        Some(Command::Mitigate(args)) => args.verbose,
        _ => cli.trace.verbose,
    };
    term::start_log(match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        _ => LevelFilter::Debug,
    });
    match cli.command {
        None => return trace::run(&Config::resolve(cli.trace)?),
        Some(Command::Report(args)) if args.pictures.wanted() => return figures::run(&args),
        Some(Command::Report(args)) => return replay::run(&args),
        Some(Command::Flame(args)) => return trace::run(&Config::of_flame(*args)?),
        Some(Command::Serve(args)) => return serve::run(&args),
        #[cfg(feature = "top")]
        Some(Command::Top(args)) => return connect_trace::top::run(&args),
        Some(Command::Mitigate(args)) => return serve::run(&args.service()),
        Some(Command::Check(args)) => return check::run(&args),
        Some(Command::Explain(args)) => return explain::run(&args),
        Some(Command::Ports(args)) => return ports::run(&args),
        Some(Command::Load(args)) => return load::run(&args),
        Some(Command::Compare(args)) => return compare::run(&args),
        Some(Command::Try(args)) => return supervise::run(&args),
        Some(Command::TryPrice { to, results }) => supervise::price::run(to, results)?,
        Some(Command::TryStandby { work }) => supervise::standby::run(&work)?,
        Some(Command::LoadRunner) => load::runner::run()?,
        Some(Command::Completions { shell }) => {
            stdout().write_all(completions::script(shell).as_bytes())?;
        }
        Some(Command::Man(args)) => man::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the help, the version, or the error of a command line.
fn usage(text: clap::Error) -> Result<ExitCode> {
    if text.use_stderr() {
        message::usage(text);
        return Ok(ExitCode::from(2));
    }
    text.print().map_err(Refused::wrap)?;
    Ok(ExitCode::SUCCESS)
}
