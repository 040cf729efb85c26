//! Connections that are made in another way than by connect() of a 64-bit program, and the kernel's own connections.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context as _, Result};
use connect_trace::{
    connect::{Connect, Owner},
    probes::attach::AttachMode,
};
use connect_trace_guest::truth::Record;

use crate::{
    Lacking, Test,
    matching::{Extent, matched},
    trace::{Session, Trace, config},
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [
        a_fast_open_is_one_record_whichever_call_makes_it,
        a_connect_by_io_uring_is_of_the_thread_that_makes_it,
        a_system_call_of_32_bits_makes_one_record,
        a_connection_that_mptcp_makes_itself_is_marked,
    ],
];

/// Runs a case of truth in a trace, which must have a record for every call.
fn traced(mode: AttachMode, case: &str) -> Result<(Vec<Record>, Trace)> {
    let session = Session::start(&config(mode))?;
    let of_truth = truth(case)?;
    let trace = session.end()?;
    trace.assert_complete();
    Ok((of_truth, trace))
}

fn is_true(mode: AttachMode, case: &str) -> Result<()> {
    let (of_truth, trace) = traced(mode, case)?;
    assert!(!of_truth.is_empty());
    matched(&of_truth, &trace.connects, Extent::Exact)?;
    Ok(())
}

fn a_fast_open_is_one_record_whichever_call_makes_it(mode: AttachMode) -> Result<()> {
    is_true(mode, "fast-open --count 4")
}

fn a_connect_by_io_uring_is_of_the_thread_that_makes_it(mode: AttachMode) -> Result<()> {
    const SYMBOLS: &str = "/proc/kallsyms";
    let symbols = fs::read_to_string(SYMBOLS).context(SYMBOLS)?;
    if !symbols.contains("_sys_io_uring_setup\n") {
        return Err(Lacking("io_uring").into());
    }
    is_true(mode, "io-uring --count 4")
}

fn a_system_call_of_32_bits_makes_one_record(mode: AttachMode) -> Result<()> {
    if !Path::new("/proc/sys/abi/vsyscall32").exists() {
        return Err(Lacking("programs of 32 bits").into());
    }
    is_true(mode, "compat --count 4")
}

fn a_connection_that_mptcp_makes_itself_is_marked(mode: AttachMode) -> Result<()> {
    const COUNT: usize = 3;
    if !Path::new("/proc/sys/net/mptcp").exists() {
        return Err(Lacking("MPTCP").into());
    }
    let (of_truth, trace) = traced(mode, &format!("mptcp --count {COUNT}"))?;
    let pairs = matched(&of_truth, &trace.connects, Extent::More)?;
    let to = pairs[0].record().destination;
    let made = |connect: &&Connect| connect.pid != of_truth[0].pid;
    let mut joined = 0;
    for connect in trace.connects.iter().filter(made) {
        assert_eq!(connect.owner, Some(Owner::Worker), "{connect:?}");
        let comm = connect.comm.to_string();
        assert!(comm.starts_with("kworker/"), "{connect:?}");
        let further = IpAddr::from(Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(connect.source, Some(further), "{connect:?}");
        // On some kernels the other end makes a connection too.
        joined += usize::from(connect.destination == to && connect.errno == 0);
    }
    assert_eq!(joined, COUNT, "{:?}", trace.connects);
    Ok(())
}
