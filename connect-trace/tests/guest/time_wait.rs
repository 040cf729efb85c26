//! `--time-wait`: the candidate ports in TIME_WAIT that the kernel refused and reused, compared with the ports that each
//! search went through, by its order, its length, and the number of calls of `__inet_check_established`.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use connect_trace::{
    connect::{CheckMode, Connect, PortRange, SearchRange, scan::Order},
    probes::{ProbeConfig, attach::AttachMode},
};
use connect_trace_common::counters::TimeWaitCounts;
use serde_json::Value;

use crate::{
    Test,
    output::Lines,
    program::{report, tracing},
    trace::{Session, config},
    truth::{Range, Sysctl, truth},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [ports_in_time_wait_are_counted_once_for_each_search_that_comes_to_them],
];

pub const TESTS_OF_NO_MODE: &[Test<()>] = crate::tests![
    OldestAndNewest: [ports_in_time_wait_are_reported_with_their_settings],
];

const PORTS: u16 = 32;
/// Number of ports in TIME_WAIT.
const WAITING: u64 = 12;

/// Returns a range above the kernel's default range, which no other connection uses.
fn range(mode: AttachMode, is_v6: bool) -> PortRange {
    let low = 63_000 + if is_v6 { 100 } else { 0 };
    let low = match mode {
        AttachMode::Fentry => low,
        AttachMode::Kprobe => low + 200,
    };
    PortRange {
        low,
        high: low + PORTS - 1,
    }
}

/// A trace that counts ports in TIME_WAIT, and its counts at the start.
fn counting(mode: AttachMode) -> Result<Session> {
    Session::start(&ProbeConfig {
        checks: CheckMode::Count,
        time_wait: true,
        ..config(mode)
    })
}

/// Ends the trace; returns its counts and its connections.
fn counted(mut session: Session) -> Result<(TimeWaitCounts, Vec<Connect>)> {
    let counts = session.tracer.probes().time_wait()?;
    let (counts, skipped) = counts.context("they are counted")?;
    ensure!(skipped.unwrap_or(0) == 0, "{skipped:?} skipped");
    let trace = session.end()?;
    trace.assert_complete();
    Ok((counts, trace.connects))
}

/// Connects until the range is used up, and once more.
fn use_up(destination: SocketAddr) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    loop {
        match TcpStream::connect(destination) {
            Ok(stream) => held.push(stream),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Ok(held),
            Err(error) => bail!("connect to {destination}: {error}"),
        }
    }
}

/// Returns the ports that a search went through; `None` if its length is not known.
fn tried(connect: &Connect, range: PortRange) -> Result<Option<Vec<u16>>> {
    let Some(scanned) = connect.scanned else {
        return Ok(None);
    };
    let by_parity = true;
    let order = Order::of(SearchRange {
        ports: range,
        by_parity,
    });
    let order = order.context("the range has ports")?;
    let of_start = |start| {
        let all = (0..order.passes())
            .flat_map(move |pass| (0..order.starts()).map(move |nth| order.port(start, pass, nth)));
        all.take(scanned as usize).collect::<Vec<u16>>()
    };
    let found = connect.port.number();
    let mut starts = (0..order.starts()).map(of_start);
    let ports = starts.find(|ports| found.is_none() || ports.last().copied() == found);
    Ok(Some(ports.with_context(|| format!("{connect:?}"))?))
}

fn ports_in_time_wait_are_counted_once_for_each_search_that_comes_to_them(
    mode: AttachMode,
) -> Result<()> {
    for address in ["127.0.0.1", "::1"] {
        let listener = TcpListener::bind((address, 0)).context("cannot listen")?;
        let destination = listener.local_addr()?;
        let range = range(mode, destination.is_ipv6());
        let _range = Range::read()?.set(range.low, range.high)?;
        let refusing = Sysctl::set("tcp_tw_reuse", "0")?;
        let mut waiting = BTreeSet::new();
        for _ in 0..WAITING {
            let client = TcpStream::connect(destination)?;
            waiting.insert(client.local_addr()?.port());
            let (server, _) = listener.accept()?;
            // The side that closes first keeps the port in TIME_WAIT.
            drop(client);
            drop(server);
        }
        assert_eq!(waiting.len() as u64, WAITING);
        thread::sleep(Duration::from_millis(2_500));

        let session = counting(mode)?;
        let mut held = use_up(destination)?;
        let (counts, connects) = counted(session)?;
        assert_eq!(held.len() as u64, u64::from(PORTS) - WAITING);
        assert_eq!(connects.len(), held.len() + 1);
        let (mut met, mut calls, mut unknown) = (0, 0, 0);
        for connect in &connects {
            match tried(connect, range)? {
                Some(ports) => {
                    let ports = ports.iter().filter(|port| waiting.contains(port));
                    let of_this = ports.count() as u64;
                    met += of_this;
                    calls += u64::from(of_this > 0);
                    // One check for each port that is taken; the kernel checks one in TIME_WAIT once or twice.
                    let scanned = u64::from(connect.scanned.context("known")?);
                    let passed = scanned - u64::from(connect.errno == 0);
                    let checks = u64::from(connect.checks.context("counted")?);
                    assert!([passed, passed + of_this].contains(&checks), "{connect:?}");
                }
                None => unknown += 1,
            }
        }
        assert_eq!(counts.reused, 0, "{counts:?}");
        if unknown == 0 {
            assert_eq!((counts.refused, counts.calls), (met, calls), "{connects:?}");
        } else {
            assert!(counts.refused >= met && counts.calls >= calls, "{counts:?}");
        }
        // The last search went through the whole range.
        assert!(counts.refused >= WAITING, "{counts:?}");

        // Without a port of any other kind, a search meets each of them.
        let session = counting(mode)?;
        use_up(destination)?;
        let (counts, _) = counted(session)?;
        let expected = TimeWaitCounts {
            refused: WAITING,
            reused: 0,
            calls: 1,
        };
        assert_eq!(counts, expected);

        drop(refusing);
        let _reusing = Sysctl::set("tcp_tw_reuse", "1")?;
        let session = counting(mode)?;
        held.extend(use_up(destination)?);
        let (counts, _) = counted(session)?;
        assert_eq!(held.len() as u64, u64::from(PORTS));
        let expected = TimeWaitCounts {
            refused: 0,
            reused: WAITING,
            calls: WAITING,
        };
        assert_eq!(counts, expected);
    }
    Ok(())
}

fn ports_in_time_wait_are_reported_with_their_settings((): ()) -> Result<()> {
    let process = tracing("--format json --time-wait")?;
    // On two ports: the second connect() meets one in TIME_WAIT, the third both, and the last two reuse one each.
    let of_truth = truth("time-wait")?;
    process.signal(libc::SIGINT)?;
    let lines = Lines::of(&report(process)?)?;
    let report_line = lines.report()?;
    let failed = of_truth.iter().filter(|record| {
        record
            .outcome
            .as_ref()
            .is_some_and(|outcome| outcome.errno != 0)
    });
    assert_eq!((of_truth.len(), failed.count()), (5, 1));
    let time_wait = &report_line["time_wait"];
    for (name, expected) in [("refused", 3), ("reused", 2), ("connects", 4)] {
        assert_eq!(time_wait[name], expected, "{name}: {time_wait}");
    }
    assert_eq!(time_wait["tcp_tw_reuse"], 2, "{time_wait}");
    let warned = |report: &Value| report["warnings"].to_string();
    let warnings = warned(report_line);
    assert!(
        warnings.contains("refused a port in TIME_WAIT 3 times"),
        "{warnings}"
    );
    assert!(warnings.contains("tcp_tw_reuse is 2"), "{warnings}");

    let process = tracing("--format json")?;
    truth("time-wait")?;
    process.signal(libc::SIGINT)?;
    let lines = Lines::of(&report(process)?)?;
    assert_eq!(lines.report()?["time_wait"], Value::Null);
    Ok(())
}
