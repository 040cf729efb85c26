//! `--expect`: rules on what programs do, as a build uses them.

use std::{env, fs, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    Test,
    process::{Ended, Process},
    truth::Range,
};

pub const TESTS: &[Test<()>] = crate::tests![
    OldestAndNewest: [
        a_client_that_binds_before_connect_breaks_a_rule_and_is_named,
        a_range_that_runs_out_breaks_a_rule,
    ],
    Oldest: [
        a_clean_command_passes_and_a_failing_one_keeps_its_status,
        calls_that_a_trace_leaves_out_prove_nothing,
    ],
];

/// The exit status if a rule does not hold.
const BROKEN: i32 = 3;

/// Traces a command line of a shell with these rules.
fn judged(options: &[&str], rules: &[&str], script: &str) -> Result<Ended> {
    let mut command = Command::new("connect-trace");
    command.args(["-q"]).args(options);
    for rule in rules {
        command.args(["--expect", rule]);
    }
    command.args(["--", "sh", "-c", script]);
    Process::start(command)?.end()
}

/// Returns the line of JSON with the results.
fn results(ended: &Ended) -> Result<Value> {
    let line = ended
        .stdout
        .lines()
        .last()
        .with_context(|| ended.to_string())?;
    let line: Value = serde_json::from_str(line).with_context(|| ended.to_string())?;
    assert_eq!(line["type"], "rules", "{ended}");
    Ok(line)
}

fn a_client_that_binds_before_connect_breaks_a_rule_and_is_named((): ()) -> Result<()> {
    let file = env::temp_dir().join("rules.xml");
    let rules = ["strategy != bind", "errno == 0"];
    let script = "truth v4 --count 3 >&2; truth --pid-file /tmp/rules.pid bind-any --count 2 >&2";
    let name = file.to_str().context("a plain name")?;
    let ended = judged(&["--format", "json", "--junit", name], &rules, script)?;
    assert_eq!(ended.status.code(), Some(BROKEN), "{ended}");
    let line = results(&ended)?;
    let [broken, held] = [0, 1].map(|rule| &line["rules"][rule]);
    assert_eq!(
        (&line["verdict"], &broken["verdict"]),
        (&"broken".into(), &"broken".into())
    );
    assert_eq!(held["verdict"], "held", "{ended}");
    // Truth binds for each family.
    let pid: u32 = fs::read_to_string("/tmp/rules.pid")?.trim().parse()?;
    let offenders = broken["offenders"].as_array().context("an array")?;
    assert!(!offenders.is_empty(), "{ended}");
    let mut calls = 0;
    for offender in offenders {
        assert_eq!(offender["pid"].as_u64(), Some(pid.into()), "{ended}");
        assert_eq!(offender["comm"], "truth", "{ended}");
        assert_eq!(offender["value"], "bind", "{ended}");
        assert!(offender["destination_port"].as_u64() > Some(0), "{ended}");
        calls += offender["connects"].as_u64().context("a number")?;
    }
    assert_eq!(broken["broken"].as_u64(), Some(calls), "{ended}");
    assert_eq!(line["connects"].as_u64(), Some(calls + 3), "{ended}");
    let xml = fs::read_to_string(&file)?;
    let counts =
        r#"<testsuite name="connect-trace" tests="2" failures="1" errors="0" skipped="0">"#;
    assert!(xml.contains(counts), "{xml}");
    assert!(xml.contains(&format!("truth (pid {pid}) to ")), "{xml}");
    Ok(())
}

fn a_range_that_runs_out_breaks_a_rule((): ()) -> Result<()> {
    let _range = Range::read()?;
    let rules = ["errno != EADDRNOTAVAIL", "taken < 80%", "count == 53"];
    let script = "truth exhaust 20000-20049 --set-range --extra 3 --quiet";
    let ended = judged(&[], &rules, script)?;
    assert_eq!(ended.status.code(), Some(BROKEN), "{ended}");
    for line in [
        "  broken    errno != EADDRNOTAVAIL: by 3 of 53 connect() calls\n            truth (pid ",
        ": 3 calls, EADDRNOTAVAIL\n",
        "  broken    taken < 80%: by ",
        "  held      count == 53: 53\n",
    ] {
        assert!(ended.stdout.contains(line), "{line} is missing: {ended}");
    }
    Ok(())
}

fn a_clean_command_passes_and_a_failing_one_keeps_its_status((): ()) -> Result<()> {
    let rules = [
        "strategy == default",
        "errno == 0",
        "p99 < 1h",
        "count == 6",
    ];
    let clean = "truth v4 --count 6 >&2";
    let ended = judged(&[], &rules, clean)?.successful()?;
    assert!(
        ended.stdout.contains(
            ": 4 held
"
        ),
        "{ended}"
    );
    let ended = judged(&[], &rules, &format!("{clean}; exit 7"))?;
    assert_eq!(ended.status.code(), Some(7), "{ended}");
    let ended = judged(&[], &["strategy == bind"], &format!("{clean}; exit 7"))?;
    assert_eq!(ended.status.code(), Some(7), "{ended}");
    assert!(
        ended
            .stdout
            .contains("\n  broken    strategy == bind: by 6 of 6 "),
        "{ended}"
    );
    let ended = judged(&[], &["strategy != bind"], "true")?.successful()?;
    assert!(
        ended
            .stdout
            .contains("strategy != bind: of 0 connect() calls\n"),
        "{ended}"
    );
    Ok(())
}

fn calls_that_a_trace_leaves_out_prove_nothing((): ()) -> Result<()> {
    let rules = ["strategy != bind", "max < 1h", "errno == 0"];
    let ended = judged(&["--min-latency", "1h"], &rules, "truth v4 --count 5 >&2")?;
    assert_eq!(ended.status.code(), Some(BROKEN), "{ended}");
    for line in [
        "rules of 5 connect() calls, with --pid ",
        " --min-latency 3600000000000ns\n",
        "  unproven  strategy != bind: 5 calls are not decided\n",
        "            5 calls were below --min-latency, without a record\n",
        "  held      max < 1h: ",
        "  held      errno == 0: of 5 connect() calls\n",
    ] {
        assert!(ended.stdout.contains(line), "{line} is missing: {ended}");
    }
    // With a ring buffer of 64 KiB and the tracer stopped, records are lost.
    let script = "kill -STOP $PPID; truth v4 --count 1000 >&2; kill -CONT $PPID";
    let ended = judged(&["--ring-buffer", "64K"], &rules[..1], script)?;
    assert_eq!(ended.status.code(), Some(BROKEN), "{ended}");
    assert!(
        ended.stdout.contains("  unproven  strategy != bind: "),
        "{ended}"
    );
    assert!(
        ended
            .stdout
            .contains(" calls were lost: the account says why\n"),
        "{ended}"
    );
    Ok(())
}
