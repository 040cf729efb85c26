//! Another tracer of the same function counts the same number of calls.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use connect_trace::{connect::Family, probes::attach::AttachMode};

use crate::{
    Test,
    process::{Process, until},
    trace::{Session, config},
    truth::truth,
};

pub const TESTS: &[Test<AttachMode>] = crate::tests![
    All: [funclatency_counts_the_same_calls],
];

/// The kernel's list of probes, one per line: address, kind (k or r), function and offset.
pub const PROBES: &str = "/sys/kernel/debug/kprobes/list";

fn funclatency_counts_the_same_calls(mode: AttachMode) -> Result<()> {
    let mut command = Command::new("funclatency");
    command.arg("tcp_v4_connect");
    let peer = Process::start(command)?;
    // Its output is buffered and comes only at its end.
    until("funclatency has attached", || {
        let probes = fs::read_to_string(PROBES).context(PROBES)?;
        let kinds = ["k", "r"].map(|kind| is_probed(&probes, kind));
        Ok((kinds == [true, true]).then_some(()))
    })?;
    let session = Session::start(&config(mode))?;
    for case in [
        "v4 --count 40",
        "mapped --count 20",
        "v6 --count 10",
        "refused --count 5",
    ] {
        truth(case)?;
    }
    let trace = session.end()?;
    peer.signal(libc::SIGINT)?;
    let ended = peer.end()?;

    trace.assert_complete();
    let of_function = trace
        .connects
        .iter()
        .filter(|connect| connect.family != Family::V6);
    let counted = histogram_sum(&ended.stdout).with_context(|| format!("{ended}"))?;
    assert_eq!(counted, of_function.count() as u64, "{ended}");
    assert_eq!(counted, 40 + 20 + 2 * 5);
    Ok(())
}

pub fn is_probed(probes: &str, kind: &str) -> bool {
    probes.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(kind)
            && columns
                .next()
                .is_some_and(|function| function.starts_with("tcp_v4_connect+"))
    })
}

/// Returns the sum of the counts in the lines `from -> to : count |stars|`.
fn histogram_sum(text: &str) -> Result<u64> {
    let counts = text.lines().filter_map(|line| {
        let (_, row) = line.split_once(" -> ")?;
        let (_, row) = row.split_once(':')?;
        row.split_whitespace().next()
    });
    counts.map(|count| Ok(count.parse::<u64>()?)).sum()
}
