//! `connect-trace compare` under trace: the effect of the full range on each kernel.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    Test,
    load::FullRange,
    process::{Ended, Process},
    program::{connect_trace, report},
};

pub const TESTS: &[Test<()>] = crate::tests![
    All: [
        the_step_is_there_by_default_and_the_full_range_removes_it_from_linux_6_8_on,
        a_strategy_that_was_asked_for_and_is_refused_is_an_error,
    ],
];

/// Number of ports in the range, and of connections.
const PORTS: u64 = 1000;

fn compare(arguments: &str) -> Result<Ended> {
    let fixed = "compare --range 20000-20999 --repeats 1";
    Process::start(connect_trace(&format!("{fixed} {arguments}")))?.end()
}

/// Returns two figures of a strategy: the number of connections before the first odd port, and the mean number of
/// candidates per search.
fn step(comparison: &Value, strategy: &str) -> Result<(u64, f64)> {
    let strategies = comparison["strategies"].as_array();
    let mut strategies = strategies.into_iter().flatten();
    let found = strategies
        .find(|found| found["strategy"] == strategy)
        .with_context(|| format!("no {strategy} in {comparison}"))?;
    let run = &found["runs"][0];
    assert_eq!(run["attempts"], PORTS, "{found}");
    assert_eq!(run["errors"], 0, "{found}");
    let first_pass = found["first_pass_connections"].as_u64();
    let scanned = run["scanned_mean"].as_f64();
    let both = first_pass.zip(scanned);
    both.with_context(|| format!("something is missing: {found}"))
}

fn the_step_is_there_by_default_and_the_full_range_removes_it_from_linux_6_8_on(
    (): (),
) -> Result<()> {
    // The default strategies, none of which uses a feature that a kernel may refuse.
    let ended = report(Process::start(connect_trace(
        "compare --range 20000-20999 --repeats 1 --format json --window 500",
    ))?)?;
    let comparison: Value = serde_json::from_str(&ended.stdout).context(ended.stdout.clone())?;
    let measured = comparison["measured"].as_str().unwrap_or_default();
    assert!(measured.starts_with("traced by "), "{measured}");
    assert!(measured.contains(", 0 of "), "{measured}");
    assert!(!measured.contains("INCOMPLETE"), "{measured}");

    // The first half of the ports takes hardly any search; each port of the second half takes a search of half of the
    // ports.
    let (first_pass, scanned) = step(&comparison, "default")?;
    assert_eq!(first_pass, PORTS / 2, "{comparison}");
    assert!((200.0..300.0).contains(&scanned), "{scanned}: {comparison}");
    let left_out = comparison["left_out"].as_array().context("an array")?;
    let refused = |strategy: &str| left_out.iter().any(|name| name == strategy);
    let expected = FullRange::here()?;
    let candidates = match expected {
        FullRange::Refused => {
            assert!(refused("full-range"), "{comparison}");
            assert!(refused("window-500"), "{comparison}");
            return Ok(());
        }
        FullRange::KeepsStep => 200.0..300.0,
        FullRange::RemovesStep => 0.0..50.0,
    };
    let (first_pass, scanned) = step(&comparison, "full-range")?;
    expected.assert_first_pass(first_pass, PORTS, &comparison);
    assert!(candidates.contains(&scanned), "{scanned}: {comparison}");
    Ok(())
}

fn a_strategy_that_was_asked_for_and_is_refused_is_an_error((): ()) -> Result<()> {
    let ended = compare("full-range --no-trace")?;
    if FullRange::here()? == FullRange::Refused {
        assert_eq!(ended.status.code(), Some(1), "{ended}");
        assert!(ended.stderr.contains("IP_LOCAL_PORT_RANGE"), "{ended}");
        assert!(ended.stderr.contains("6.3"), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
    } else {
        assert!(ended.status.success(), "{ended}");
        assert!(ended.stdout.contains("--no-trace"), "{ended}");
    }
    Ok(())
}
