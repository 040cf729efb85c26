//! Matches truth's lines with a trace's records, one to one.

use std::{
    collections::HashMap,
    fmt::{Debug, Write as _},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, bail};
use connect_trace::connect::{self, Connect, Owner, PortChoice, SourcePort};
use connect_trace_guest::truth::{Explicit, Family, Outcome, Record};

/// Maximum number of differences in a message.
const SHOWN: usize = 5;

/// A line of truth with its record in the trace.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    pub truth: &'a Record,
    /// Record in the trace; absent if the call did not reach the probed functions.
    pub connect: Option<&'a Connect>,
}

impl<'a> Pair<'a> {
    /// Returns the record of a call that must have one.
    #[track_caller]
    pub fn record(self) -> &'a Connect {
        self.connect
            .unwrap_or_else(|| panic!("no record of {}", self.truth))
    }

    /// Returns the outcome of the call, according to truth.
    #[track_caller]
    pub fn outcome(self) -> &'a Outcome {
        let outcome = self.truth.outcome.as_ref();
        outcome.unwrap_or_else(|| panic!("no outcome of {}", self.truth))
    }
}

/// Expected relation between the calls of truth and the records of the trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every call of truth and no others.
    Exact,
    /// Every call of truth, and others.
    More,
    /// Some calls of truth, and no others.
    Fewer,
}

/// Pairs each line of truth with its record, and compares all fields that truth knows.
pub fn matched<'a>(
    truth: impl IntoIterator<Item = &'a Record>,
    connects: &'a [Connect],
    extent: Extent,
) -> Result<Vec<Pair<'a>>> {
    let mut of_thread: HashMap<u32, Vec<&Connect>> = HashMap::new();
    for connect in connects {
        of_thread.entry(connect.tid).or_default().push(connect);
    }
    let mut pairs = Vec::new();
    let mut wrong = Vec::new();
    for truth in truth {
        let records = of_thread.entry(truth.tid).or_default();
        let of_call: Vec<_> = records
            .extract_if(.., |connect| began_within(truth, connect))
            .collect();
        let expected = match &truth.outcome {
            None => 0..=1,
            Some(outcome) if outcome.kernel_errno.is_none() => 0..=0,
            Some(_) if extent == Extent::Fewer => 0..=1,
            Some(_) => 1..=1,
        };
        if !expected.contains(&of_call.len()) {
            let count = format!("{} records instead of {expected:?}", of_call.len());
            wrong.push(side_by_side(&count, truth, &of_call));
        }
        for connect in &of_call {
            for difference in differences(truth, connect) {
                wrong.push(side_by_side(&difference, truth, &[connect]));
            }
        }
        pairs.push(Pair {
            truth,
            connect: of_call.first().copied(),
        });
    }
    if extent != Extent::More {
        for connect in of_thread.into_values().flatten() {
            wrong.push(format!("a record of no call of truth's\n  {connect:?}"));
        }
    }
    if wrong.is_empty() {
        return Ok(pairs);
    }
    let shown = wrong[..wrong.len().min(SHOWN)].join("\n");
    bail!(
        "{} differences between {} lines of truth and {} records, such as:\n{shown}",
        wrong.len(),
        pairs.len(),
        connects.len(),
    )
}

/// Returns true if a record of the same thread belongs to this call: the times are of the same clock.
fn began_within(truth: &Record, connect: &Connect) -> bool {
    let end = truth
        .outcome
        .as_ref()
        .map_or(u64::MAX, |outcome| outcome.end_ns);
    (truth.start_ns..=end).contains(&connect.start_ns)
}

fn side_by_side(what: &str, truth: &Record, connects: &[&Connect]) -> String {
    let mut text = format!("{what}\n  truth:  {truth:?}");
    for connect in connects {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  record: {connect:?}");
    }
    text
}

/// Returns the differences between a record and truth.
fn differences(truth: &Record, connect: &Connect) -> Vec<String> {
    let mut differences = Differences(Vec::new());
    let at = &mut differences;
    at.compare("pid", truth.pid, connect.pid);
    at.compare("family", family(truth.family), connect.family);
    at.compare("comm", truth.comm.as_str(), &connect.comm.to_string());
    at.compare("uid", truth.uid, connect.uid);
    at.compare("netns", Some(truth.netns), connect.netns.map(u64::from));
    if let Some(cgroup) = truth.cgroup {
        at.compare("cgroup", cgroup, connect.cgroup_id);
    }
    at.hold(
        "search within connect()",
        connect.search_ns.unwrap_or(0) <= connect.connect_ns,
    );
    // The connections of MPTCP use sockets of the kernel.
    let owner = match truth.case.as_str() {
        "mptcp" => Owner::Kernel,
        _ => Owner::Process,
    };
    at.compare("owner", Some(owner), connect.owner);
    let Some(outcome) = &truth.outcome else {
        return differences.0;
    };
    let ended = connect.start_ns + connect.connect_ns;
    at.hold("end within the user's call", ended <= outcome.end_ns);
    at.compare("errno", outcome.kernel_errno, Some(connect.errno));
    at.compare(
        "search present",
        outcome.enters_search,
        connect.search_ns.is_some(),
    );
    let remote = canonical(truth.remote.ip());
    // Every reachable destination is a loopback address, and the source is the same address.
    let source = match canonical(outcome.local.ip()) {
        unspecified if unspecified.is_unspecified() => remote,
        address => address,
    };
    let destination = SocketAddr::new(remote, truth.remote.port());
    let source = outcome.enters_search.then_some(source);
    at.compare("source", source, connect.source);
    at.compare("destination", Some(destination), connect.destination);
    at.compare(
        "range present",
        outcome.enters_search,
        connect.range.is_some(),
    );
    compare_port(at, truth, outcome, connect);
    let strategy = match truth.explicit {
        Explicit::None => PortChoice::Default,
        Explicit::Port => PortChoice::ExplicitPort,
        Explicit::PortAny => PortChoice::Bind,
        Explicit::Address => PortChoice::Address,
    };
    let strategy = outcome.enters_search.then_some(strategy);
    at.compare("strategy", strategy, connect.port_choice);
    let address = strategy.map(|strategy| strategy != PortChoice::Default);
    at.compare("address bound", address, connect.address_bound);
    differences.0
}

fn compare_port(at: &mut Differences, truth: &Record, outcome: &Outcome, connect: &Connect) {
    let port = outcome.local.port();
    let bound = matches!(truth.explicit, Explicit::Port | Explicit::PortAny);
    let expected = match outcome.kernel_errno {
        _ if bound => SourcePort::Bound(port),
        Some(0) if port != 0 => SourcePort::Searched(port),
        // The socket has lost its port since.
        Some(0) => SourcePort::Searched(connect.port.number().unwrap_or(0)),
        _ => SourcePort::None,
    };
    at.compare("port", expected, connect.port);
    if let (SourcePort::Searched(port), Some(range)) = (connect.port, connect.range) {
        at.hold(
            "port within the range",
            (range.ports.low..=range.ports.high).contains(&port),
        );
    }
}

/// Differences found so far.
struct Differences(Vec<String>);

impl Differences {
    fn compare<T: Debug + PartialEq>(&mut self, what: &str, truth: T, record: T) {
        if truth != record {
            self.0.push(format!("{what}: {truth:?} is {record:?}"));
        }
    }

    fn hold(&mut self, what: &str, holds: bool) {
        if !holds {
            self.0.push(format!("{what}: it is not"));
        }
    }
}

fn family(family: Family) -> connect::Family {
    match family {
        Family::V4 => connect::Family::V4,
        Family::V6 => connect::Family::V6,
        Family::Mapped => connect::Family::Mapped,
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
