//! The command `connect-trace`.

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::CommandFactory as _;
use connect_trace::{
    check,
    cli::{Cli, Command},
    compare,
    config::Config,
    daemon, load, replay,
};

fn main() -> ExitCode {
    let cli = Cli::read();
    start_log(&cli);
    match run(cli) {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("connect-trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        None => return daemon::run(&Config::resolve(cli.trace)?),
        Some(Command::Report(args)) => return replay::run(&args),
        Some(Command::Check(args)) => return check::run(&args),
        Some(Command::Load(args)) => return load::run(&args),
        Some(Command::Compare(args)) => return compare::run(&args),
        Some(Command::LoadRunner) => load::runner::run()?,
        Some(Command::Completions { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "connect-trace", &mut text);
            io::Write::write_all(&mut io::stdout(), &text)?;
        }
        Some(Command::Man) => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// RUST_LOG decides, else the options.
fn start_log(cli: &Cli) {
    let level = match (cli.trace.quiet, cli.trace.verbose) {
        (_, 0) => "warn",
        (_, 1) => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format_timestamp(None)
        .init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}
