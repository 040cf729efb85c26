//! Tests that watched calls of `__inet_check_established` match the kernel's search.

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{CheckMode, Connect, Family},
    probes::{ProbeConfig, attach::AttachMode, checks::Families},
};
use connect_trace_common::{CheckEstablished, Times, buckets::lower_edge_ns};

use crate::{
    Test,
    matching::{Extent, Pair, matched},
    process::until,
    scan::starts_are_known,
    trace::{Session, config},
    truth::{Truth, truth},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        counting_shows_how_many_ports_each_connect_looked_at,
        timing_times_the_calls,
        a_burst_flags_the_connects_whose_checks_it_saw,
    ],
];

fn watching(mode: AttachMode, checks: CheckMode) -> Result<Session> {
    Session::start(&ProbeConfig {
        checks,
        ..config(mode)
    })
}

fn counting_shows_how_many_ports_each_connect_looked_at(mode: AttachMode) -> Result<()> {
    let session = watching(mode, CheckMode::Count)?;
    // Ranges that no other test uses: a socket left behind by another test would be one more port to check.
    let range = truth("exhaust 22000-22255 --set-range --extra 3")?;
    let range_v6 = truth("exhaust 22300-22363 --set-range --extra 2 --family 6")?;
    let explicit = truth("bind-port --count 3")?;
    let trace = session.end()?;
    trace.assert_complete();

    let pairs = |truth| matched(truth, &trace.connects, Extent::More);
    grows_with_the_ports_taken(&pairs(&range)?, 256);
    grows_with_the_ports_taken(&pairs(&range_v6)?, 64);
    for pair in pairs(&explicit)? {
        assert_eq!(pair.record().checks, Some(1), "{:?}", pair.record());
    }
    calls_are_those_of_the_connects(&trace.connects, &trace.checks);
    assert_eq!(trace.checks.map(|function| function.times.count), [0, 0]);
    Ok(())
}

/// A candidate that no socket uses is taken without a check, and each other candidate is checked once. Therefore the
/// number of checks is the number of taken ports that a search came across.
fn grows_with_the_ports_taken(pairs: &[Pair<'_>], ports: usize) {
    let half = ports / 2;
    let checks: Vec<usize> = pairs
        .iter()
        .map(|pair| pair.record().checks.unwrap_or(u32::MAX) as usize)
        .collect();
    let shown = format!("{ports} ports: {checks:?}");
    let (first, rest) = checks.split_at(half);
    let (second, failed) = rest.split_at(half);
    for (taken, &count) in first.iter().enumerate() {
        assert!(count <= taken, "connect {taken} of {shown}");
    }
    let mean = first.iter().sum::<usize>() / half;
    assert!(
        mean < half / 8,
        "{mean} on average in the first half: {shown}"
    );
    for (taken, &count) in (half..).zip(second) {
        assert!(
            (half..=taken).contains(&count),
            "connect {taken} of {shown}"
        );
    }
    for &count in failed {
        assert_eq!(count, ports, "{shown}");
    }
}

/// Asserts that each check belongs to a connect() call, and is in the function of its family.
fn calls_are_those_of_the_connects(connects: &[Connect], functions: &[CheckEstablished; 2]) {
    let counted = |v6| -> u64 {
        let of_function = connects
            .iter()
            .filter(|connect| (connect.family == Family::V6) == v6);
        of_function
            .filter_map(|connect| connect.checks)
            .map(u64::from)
            .sum()
    };
    let calls = functions.map(|function| function.calls);
    assert_eq!(calls, [counted(false), counted(true)]);
}

fn timing_times_the_calls(mode: AttachMode) -> Result<()> {
    let session = watching(mode, CheckMode::Time)?;
    let range = truth("exhaust 22400-22527 --set-range --extra 2")?;
    let range_v6 = truth("exhaust 22600-22663 --set-range --extra 2 --family 6")?;
    let trace = session.end()?;
    trace.assert_complete();
    matched(
        range.iter().chain(&range_v6),
        &trace.connects,
        Extent::Exact,
    )?;
    calls_are_those_of_the_connects(&trace.connects, &trace.checks);
    for function in trace.checks {
        times_are_consistent(&function);
        // All calls are timed except those that another thread interrupted.
        assert!(
            function.times.count * 10 > function.calls * 9,
            "{function:?}"
        );
    }
    let searching: u64 = trace
        .connects
        .iter()
        .filter_map(|connect| connect.search_ns)
        .sum();
    let checking: u64 = trace
        .checks
        .iter()
        .map(|function| function.times.total_ns)
        .sum();
    assert!(checking < searching, "{checking} ns of {searching} ns");
    for connect in &trace.connects {
        assert_eq!(
            connect.checks_watched,
            connect.checks != Some(0),
            "{connect:?}"
        );
    }
    Ok(())
}

fn times_are_consistent(function: &CheckEstablished) {
    let CheckEstablished { calls, times } = *function;
    let Times {
        count: timed,
        total_ns,
        max_ns,
        buckets,
    } = times;
    assert!(timed > 0 && timed <= calls, "{function:?}");
    assert_eq!(buckets.iter().sum::<u64>(), timed, "{function:?}");
    assert!(max_ns <= total_ns, "{function:?}");
    let least = buckets.iter().enumerate();
    let least: u64 = least
        .map(|(bucket, count)| count * lower_edge_ns(bucket))
        .sum();
    assert!(
        least <= total_ns && total_ns <= timed * max_ns,
        "{function:?}"
    );
    let highest = buckets.iter().rposition(|&count| count > 0);
    let highest = highest.map_or(0, lower_edge_ns);
    assert!(
        (highest..highest.max(1) * 10).contains(&max_ns),
        "{function:?}"
    );
}

fn a_burst_flags_the_connects_whose_checks_it_saw(mode: AttachMode) -> Result<()> {
    starts_are_known()?;
    let mut session = watching(mode, CheckMode::Sampled)?;
    let bursts = session.tracer.probes().watcher().bursts();
    let bursts = bursts.context("no bursts although they are asked for")?;
    // The first burst lasts from the start until a check was seen.
    let first = truth("exhaust 23000-23199 --set-range")?;
    bursts.end_first()?;
    for connect in session.connects() {
        // No socket used the port that was found, so that it was not checked.
        assert_eq!(
            connect.checks_watched,
            connect.scanned > Some(1),
            "{connect:?}"
        );
    }
    let truth = Truth::start("exhaust 23000-24999 --set-range --extra 500")?;
    until("the even ports are taken", || {
        Ok((session.connects().len() > first.len() + 1_050).then_some(()))
    })?;
    let calls = |session: &mut Session| session.tracer.probes().maps().checks()[0].calls;
    let before = calls(&mut session);
    bursts.run(Families {
        v4: true,
        v6: false,
    })?;
    let seen = calls(&mut session) - before;
    let truth = truth.end()?;
    let trace = session.end()?;
    trace.assert_complete();
    let (of_first, connects) = trace.connects.split_at(first.len());
    matched(&first, of_first, Extent::Exact)?;
    matched(&truth, connects, Extent::Exact)?;

    // The calls in flight at the beginning and at the end of the burst, watched in part, and all calls between them.
    let flagged = connects.iter().map(|connect| connect.checks_watched);
    let mut flagged = flagged.enumerate().filter(|(_, flagged)| *flagged);
    let (start, _) = flagged.next().context("no connect() was flagged")?;
    let end = flagged.next_back().map_or(start, |(end, _)| end);
    let flagged = &connects[start..=end];
    assert!(flagged.iter().all(|connect| connect.checks_watched));
    let checks = |connects: &[Connect]| -> Option<u64> {
        let checked = |connect: &Connect| connect.scanned.map(|scanned| u64::from(scanned - 1));
        connects.iter().map(checked).sum()
    };
    let least = checks(flagged.get(1..flagged.len() - 1).unwrap_or_default());
    let most = checks(flagged).context("a search of unknown length")? + flagged.len() as u64;
    assert!(
        least.context("a search of unknown length")? <= seen && seen <= most,
        "{seen} calls seen in connects {start} to {end}, which made {least:?} to {most}"
    );
    let [v4, v6] = trace.checks;
    times_are_consistent(&v4);
    assert_eq!(v6, CheckEstablished::default());
    Ok(())
}
