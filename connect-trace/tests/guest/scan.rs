//! The number of ports that a search went through, computed from its start, compared with the kernel's own calls of
//! `__inet_check_established`.
//!
//! Each taken port of these ranges is taken towards the same destination. Therefore a search makes one call for each
//! port that it skips; a port without a socket costs none.

use std::{fs, path::Path, process};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{CheckMode, Connect, scan},
    probes::{ProbeConfig, attach::AttachMode},
};
use serde_json::Value;

use crate::{
    Lacking, Test,
    matching::{Extent, matched},
    program::{report, tracing},
    socket, symbols,
    trace::{Session, config, crowd_is_seen},
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        a_search_goes_through_as_many_ports_as_the_kernel_looks_at,
        a_search_that_another_one_may_have_moved_is_not_told_wrong,
        a_search_by_random_steps_is_not_told,
    ],
];

pub const TESTS_OF_NO_MODE: &[Test<()>] = crate::tests![
    Oldest: [
        ports_that_run_out_are_told_once,
    ],
];

/// Returns a range for sockets with a range of their own, above the kernel's default range and not used by any earlier
/// connection: a port in TIME_WAIT costs calls although it can be taken.
fn own_range(mode: AttachMode) -> (u16, u16) {
    match mode {
        AttachMode::Fentry => (61_100, 61_199),
        AttachMode::Kprobe => (61_200, 61_299),
    }
}

fn watching(mode: AttachMode) -> Result<Session> {
    Session::start(&ProbeConfig {
        checks: CheckMode::Count,
        ..config(mode)
    })
}

/// Returns the number of calls that a search of `scanned` ports makes.
#[track_caller]
fn calls(connect: &Connect, scanned: u32) -> u32 {
    match connect.errno {
        0 => scanned - 1,
        libc::EADDRNOTAVAIL => scanned,
        _ => panic!("{connect:?}"),
    }
}

/// Fails if the kernel does not tell where the starts of searches are: a kernel built without `CONFIG_KALLSYMS_ALL`, such as
/// Debian's 6.1 of arm64.
pub fn starts_are_known() -> Result<()> {
    match symbols::has("table_perturb")? {
        true => Ok(()),
        false => Err(Lacking("the symbol table_perturb").into()),
    }
}

fn a_search_goes_through_as_many_ports_as_the_kernel_looks_at(mode: AttachMode) -> Result<()> {
    starts_are_known()?;
    let session = watching(mode)?;
    // The kernel fills its table of starts in the middle of the first search since the boot.
    truth("v4 --count 1")?;
    let mut of_truth = truth("exhaust 26000-26255 --set-range --extra 3")?;
    // By parity, the last of an odd number of ports replaces the first.
    of_truth.extend(truth(
        "exhaust 26301-26365 --set-range --extra 2 --family 6",
    )?);
    let (low, high) = own_range(mode);
    let own = socket::connect_from_all(low, high)?;
    let trace = session.end()?;
    trace.assert_complete();

    let pairs = matched(&of_truth, &trace.connects, Extent::More)?;
    let own_connects = trace.connects.iter();
    let own_connects: Vec<_> = own_connects
        .filter(|connect| connect.pid == process::id())
        .collect();
    assert_eq!(
        own_connects.len(),
        own.map_or(own_connects.len(), |ports| ports.len())
    );
    let mut failed = 0;
    for connect in pairs.iter().map(|pair| pair.record()).chain(own_connects) {
        let scanned = connect.scanned;
        let scanned = scanned.with_context(|| format!("not known: {connect:?}"))?;
        assert_eq!(Some(calls(connect, scanned)), connect.checks, "{connect:?}");
        if connect.errno != 0 {
            failed += 1;
            assert_eq!(connect.scanned, connect.range.and_then(scan::all));
        }
    }
    assert!(failed >= 3 + 2, "{failed} failed");
    Ok(())
}

fn a_search_that_another_one_may_have_moved_is_not_told_wrong(mode: AttachMode) -> Result<()> {
    starts_are_known()?;
    crowd_is_seen(mode)?;
    let session = watching(mode)?;
    let of_truth = truth("threads 27000-27499 --set-range --threads 16 --count 40")?;
    let trace = session.end()?;
    trace.assert_complete();
    let pairs = matched(&of_truth, &trace.connects, Extent::More)?;
    let (mut known, mut wrong) = (0, 0);
    for connect in pairs.iter().map(|pair| pair.record()) {
        let (Some(scanned), Some(checks)) = (connect.scanned, connect.checks) else {
            continue;
        };
        known += 1;
        // A port that another thread takes at the same moment can cost one more call.
        let expected = calls(connect, scanned);
        wrong += usize::from(!(expected..=expected + 16).contains(&checks));
    }
    let all = pairs.len();
    // An error goes unnoticed if another search moves the slot between the tracer's read and the kernel's, and is
    // delayed until this search has returned.
    assert!(
        known > all / 4 && wrong <= 1,
        "of {all}: {known} known, {wrong} wrong"
    );
    Ok(())
}

fn a_search_by_random_steps_is_not_told(mode: AttachMode) -> Result<()> {
    const STEP_WIDTH: &str = "/proc/sys/net/ipv4/ip_local_port_step_width";
    if !Path::new(STEP_WIDTH).exists() {
        return Err(Lacking("the setting ip_local_port_step_width").into());
    }
    let session = Session::start(&config(mode))?;
    fs::write(STEP_WIDTH, "8").context(STEP_WIDTH)?;
    let of_truth = truth("exhaust 29000-29063 --set-range --extra 1");
    fs::write(STEP_WIDTH, "0").context(STEP_WIDTH)?;
    let of_truth = of_truth?;
    let trace = session.end()?;
    trace.assert_complete();
    for pair in matched(&of_truth, &trace.connects, Extent::Exact)? {
        assert_eq!(pair.record().scanned, None, "{:?}", pair.record());
    }
    Ok(())
}

fn ports_that_run_out_are_told_once((): ()) -> Result<()> {
    const WORDS: &str = "ports are running out from 127.0.0.1 to 127.0.0.1:";
    let process = tracing("--format json --check-established off")?;
    // Each case has its own listener: the first leaves half of the ports, the second takes more.
    truth("v4 --count 3")?;
    truth("exhaust 28000-28255 --set-range")?;
    process.signal(libc::SIGINT)?;
    let ended = report(process)?;
    assert_eq!(ended.stderr.matches(WORDS).count(), 1, "{}", ended.stderr);
    let line: Value = serde_json::from_str(&ended.stdout)?;
    let warnings = line["warnings"].as_array().context("warnings")?;
    let told: Vec<&str> = warnings
        .iter()
        .filter(|warning| warning["kind"] == "exhaustion")
        .filter_map(|warning| warning["text"].as_str())
        .collect();
    assert_eq!(told.len(), 1, "{warnings:?}");
    // The search for the last of 256 ports skipped many ports.
    assert!(
        told[0].starts_with(WORDS) && told[0].contains(": at least "),
        "{told:?}"
    );
    let scanned = &line["strategies"][0]["scanned"];
    assert!(scanned["max_ports"].as_u64() > Some(128), "{scanned}");
    Ok(())
}
