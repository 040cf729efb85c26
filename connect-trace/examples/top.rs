//! `cargo run -p connect-trace --example top` shows the screen of `connect-trace top` on invented connections, without root:
//! a quarter of an hour, in which a range runs out, goes by in as many seconds as it has intervals.

#[path = "../tests/fixtures/mod.rs"]
#[allow(dead_code, reason = "other examples use more of it")]
mod fixtures;
#[path = "../tests/fixtures/scene.rs"]
mod scene;

use std::time::Duration;

use anyhow::Result;
use connect_trace::top::rehearsal::rehearse;

/// Intervals in which nothing happens, and in which a range runs out.
const CALM: usize = 60;
const RISING: usize = 40;

fn main() -> Result<()> {
    let intervals = scene::scene(CALM, RISING);
    let length = Duration::from_secs(10);
    rehearse(Duration::from_secs(1), length, CALM, intervals)
}
