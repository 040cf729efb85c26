//! The command `connect-trace`.

use std::process::ExitCode;

use clap::Parser as _;
use connect_trace::{cli::Cli, config::Config, daemon};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let cli = Cli::parse();
    match Config::resolve(cli).and_then(|config| daemon::run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("connect-trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}
