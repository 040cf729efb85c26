//! Calls that are missing from the trace are counted, with the reason.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::Barrier,
    thread,
};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{Connect, Family},
    filter::Filters,
    probes::{ProbeConfig, attach::AttachMode, smallest_ring_buffer_bytes},
};

use crate::{
    Test,
    matching::{Extent, matched},
    process::until,
    trace::{Session, config, crowd_is_seen},
    truth::{Truth, truth},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        calls_in_flight_when_the_probes_are_detached_are_in_the_trace,
        returns_that_another_tracer_takes_are_counted_as_lost,
        a_search_that_was_not_seen_is_counted,
    ],
    OldestAndNewest: [
        calls_of_other_processes_are_counted_as_filtered,
        records_beyond_a_full_ring_buffer_are_counted_as_lost,
        calls_beyond_the_most_in_flight_are_counted_as_lost,
        nearly_every_thread_has_a_place_of_its_own,
    ],
];

/// Starts processes that search long and without a pause until they are dropped: more processes than CPUs, so that some
/// are always in the middle of a search. They leave the CPUs to tracers that begin and end meanwhile.
fn long_searches(session: &mut Session) -> Result<Vec<Truth>> {
    const PROCESSES: usize = 4;
    const PORTS: usize = 400;
    let truths = (0..PROCESSES)
        .map(|_| {
            let mut truth = Command::new("truth");
            truth.args("exhaust 27300-27699 --set-range --extra 300000".split(' '));
            // SAFETY: the closure only makes a system call, which takes numbers.
            unsafe {
                truth.pre_exec(|| {
                    libc::setpriority(libc::PRIO_PROCESS, 0, 19);
                    Ok(())
                })
            };
            let held = Truth::hold_command(truth)?;
            held.release()?;
            Ok(held)
        })
        .collect::<Result<_>>()?;
    until("each range is used up", || {
        let failed = |connect: &&Connect| connect.errno == libc::EADDRNOTAVAIL;
        let failed = session.connects().iter().filter(failed);
        let processes: HashSet<u32> = failed.map(|connect| connect.pid).collect();
        Ok((processes.len() == PROCESSES).then_some(()))
    })?;
    assert!(session.connects().len() > PROCESSES * PORTS);
    Ok(truths)
}

fn calls_beyond_the_most_in_flight_are_counted_as_lost(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let session = Session::start(&ProbeConfig {
        max_in_flight: 1,
        ..config(mode)
    })?;
    let truth = truth("threads 27000-27255 --set-range --threads 32 --count 16")?;
    let trace = session.end()?;
    matched(&truth, &trace.connects, Extent::Fewer)?;
    let accounting = trace.accounting;
    assert!(accounting.adds_up(), "{accounting:#?}");
    assert_eq!(accounting.kernel.entered, truth.len() as u64);
    assert!(accounting.kernel.in_flight_full > 0, "{accounting:#?}");
    assert_eq!(
        accounting.lost(),
        accounting.kernel.in_flight_full,
        "{accounting:#?}"
    );
    assert_eq!(accounting.in_flight, 0, "{accounting:#?}");
    Ok(())
}

fn records_beyond_a_full_ring_buffer_are_counted_as_lost(mode: AttachMode) -> Result<()> {
    let session = Session::start(&ProbeConfig {
        ring_buffer_bytes: smallest_ring_buffer_bytes(),
        ..config(mode)
    })?;
    let calls = Truth::start("rate --threads 1 --seconds 1")?.calls()?;
    let trace = session.end()?;
    let accounting = trace.accounting;
    assert!(accounting.adds_up(), "{accounting:#?}");
    assert_eq!(accounting.kernel.entered, calls, "{accounting:#?}");
    assert!(accounting.kernel.ring_full > 0, "{accounting:#?}");
    assert_eq!(
        accounting.lost(),
        accounting.kernel.ring_full,
        "{accounting:#?}"
    );
    assert!(!trace.connects.is_empty(), "{accounting:#?}");
    Ok(())
}

fn calls_of_other_processes_are_counted_as_filtered(mode: AttachMode) -> Result<()> {
    // A v4-mapped connection goes through both functions, and is one call.
    let wanted = [
        Truth::hold("v4 --count 9")?,
        Truth::hold("mapped --count 8")?,
    ];
    let others = [
        Truth::hold("mapped --count 7")?,
        Truth::hold("v6 --count 6")?,
    ];
    let session = Session::start(&ProbeConfig {
        filters: Filters {
            pids: wanted.iter().map(Truth::pid).collect(),
            ..Filters::default()
        },
        ..config(mode)
    })?;
    // One after the other: if they ran at once, a kernel that preempts might skip fentry programs.
    let mut records = Vec::new();
    for truth in wanted {
        truth.release()?;
        records.extend(truth.end()?);
    }
    for truth in others {
        truth.release()?;
        truth.end()?;
    }
    let trace = session.end()?;
    let pairs = matched(&records, &trace.connects, Extent::Exact)?;
    let mapped = pairs
        .iter()
        .filter(|pair| pair.record().family == Family::Mapped);
    assert_eq!((pairs.len(), mapped.count()), (17, 8));
    trace.assert_complete();
    assert_eq!(trace.accounting.kernel.filtered, 13);
    Ok(())
}

fn calls_in_flight_when_the_probes_are_detached_are_in_the_trace(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let mut session = Session::start(&config(mode))?;
    let searching = long_searches(&mut session)?;
    let trace = session.end()?;
    drop(searching);
    trace.assert_complete();
    Ok(())
}

fn returns_that_another_tracer_takes_are_counted_as_lost(mode: AttachMode) -> Result<()> {
    crowd_is_seen(mode)?;
    let mut session = Session::start(&config(mode))?;
    let searching = long_searches(&mut session)?;
    // The first trace is read meanwhile, or its ring buffer would be full.
    let other = thread::spawn(move || Session::start(&config(mode))?.end().map(|_| ()));
    until("the other tracer has gone", || {
        session.connects();
        Ok(other.is_finished().then_some(()))
    })?;
    other.join().expect("it returns its errors")?;
    // Each thread makes another call; its record shows that the return of the last call was seen.
    let before = session.connects().len();
    until("the searches have gone on", || {
        Ok((session.connects().len() > before + 100).then_some(()))
    })?;
    let trace = session.end()?;
    drop(searching);
    let accounting = trace.accounting;
    assert!(accounting.adds_up(), "{accounting:#?}");
    assert_eq!(accounting.in_flight, 0, "{accounting:#?}");
    assert_eq!(
        accounting.lost(),
        accounting.kernel.return_missed,
        "{accounting:#?}"
    );
    if mode == AttachMode::Kprobe {
        // On a kernel that preempts, the other tracer's system calls on its maps keep programs from running.
        let skipped = accounting.recursion_misses.unwrap_or(0);
        assert!(accounting.lost() <= skipped, "{accounting:#?}");
    }
    Ok(())
}

/// Tests that a search is counted if its fentry program was skipped, as on a kernel that preempts.
fn a_search_that_was_not_seen_is_counted(mode: AttachMode) -> Result<()> {
    let session = Session::start(&config(mode))?;
    truth("threads 27000-27255 --set-range --threads 32 --count 16")?;
    let trace = session.end()?;
    let unseen = trace
        .connects
        .iter()
        .filter(|connect| connect.errno == 0 && connect.search_ns.is_none());
    assert!(unseen.count() as u64 <= trace.accounting.kernel.search_return_missed);
    trace.assert_lost_are_counted();
    Ok(())
}

fn nearly_every_thread_has_a_place_of_its_own(mode: AttachMode) -> Result<()> {
    const THREADS: usize = 256;
    /// By chance both places of a thread may be taken: for one thread in a thousand by simulation.
    const WITHOUT: usize = 16;
    crowd_is_seen(mode)?;
    let mut session = Session::start(&config(mode))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let address = listener.local_addr()?;
    let (connected, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let places = thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let stream = TcpStream::connect(address);
                connected.wait();
                end.wait();
                stream
            });
        }
        for _ in 0..THREADS {
            let _ = listener.accept();
        }
        connected.wait();
        let places = session.tracer.probes().maps().places();
        end.wait();
        places
    });
    assert!((THREADS - WITHOUT..).contains(&places), "{places}");
    until("ended threads have given theirs up", || {
        Ok((session.tracer.probes().maps().places() < WITHOUT).then_some(()))
    })?;
    session.end()?.assert_complete();
    Ok(())
}
