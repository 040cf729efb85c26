//! What is not in the trace is counted, with its reason.

use anyhow::Result;
use connect_trace::{
    event::Family,
    filter::Filters,
    probes::{AttachMode, ProbeConfig},
};

use crate::{
    Test,
    matching::{Extent, matched},
    trace::{Session, config, crowd_is_seen},
    truth::{Truth, truth},
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    calls_beyond_the_most_in_flight_are_counted_as_lost,
    records_beyond_a_full_ring_buffer_are_counted_as_lost,
    calls_of_other_processes_are_counted_as_filtered,
];

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
        ring_buffer_bytes: 4096,
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
    // A v4-mapped one goes through both functions, and is one call.
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
    // One after the other: at once, a kernel that preempts might skip fentry programs.
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
