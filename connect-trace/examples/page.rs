//! Writes files to try `connect-trace report --html` on, and to measure the cost of a page of millions.
//!
//! `cargo run --release -p connect-trace --example page -- log FILE` writes a log of seven runs, `… -- recording FILE
//! CONNECTS` a recording. `… -- live ADDRESS:PORT` serves the live page of `connect-trace serve` on invented connections,
//! until it is interrupted: each time that the page is fetched, ten seconds have gone by.

#[path = "../tests/fixtures/mod.rs"]
mod fixtures;
#[path = "../tests/fixtures/scene.rs"]
mod scene;

use std::{env, net::TcpListener, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use connect_trace::{load::log::Run, serve::rehearsal::rehearse};

use self::fixtures::recording::write_recording;

/// Number of ports in the article's range.
const PORTS: u32 = 56_512;

/// Intervals of the live page in which nothing happens, and in which a range runs out.
const CALM: usize = 60;
const RISING: usize = 40;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["log", path] => {
            let (head, attempts) = fixtures::write_log(Path::new(path), strategies())?;
            eprintln!("{} runs, {} connections", head.runs.len(), attempts.len());
        }
        ["recording", path, count] => {
            let count = count.parse().context("CONNECTS is a number")?;
            write_recording(Path::new(path), "", 1_000_000_000, fixtures::many(count))?;
        }
        ["live", address] => {
            let listener =
                TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
            eprintln!("http://{}", listener.local_addr()?);
            let intervals = scene::scene(CALM, RISING);
            rehearse(listener, Duration::from_secs(10), CALM, intervals)?;
        }
        _ => bail!("say `log FILE`, `recording FILE CONNECTS` or `live ADDRESS:PORT`"),
    }
    Ok(())
}

/// Returns a run of every strategy of the article, and three of select-test-repeat.
fn strategies() -> Vec<Run> {
    let mut runs = Vec::new();
    for (strategy, repeats) in [
        ("default", 1),
        ("full-range", 1),
        ("window-500", 1),
        ("window-10000", 1),
        ("select-test-repeat", 3),
    ] {
        runs.extend((1..=repeats).map(|repeat| fixtures::run(strategy, repeat, PORTS)));
    }
    runs
}
