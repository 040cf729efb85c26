//! The parts of connect() calls as JSON.

use serde::Serialize;

use super::Times;
use crate::connect::{self, Cause, Connect, LockWaits};
use crate::report::phases::unknown;
use crate::stats::{self, Summary};

/// The parts of one connect().
#[derive(Serialize)]
pub(super) struct EventPhases {
    before_search_ns: u64,
    after_search_ns: Option<u64>,
    preempted: Split,
    blocked: Split,
    lock_waits: Option<Locks>,
    causes: Option<Causes>,
}

impl EventPhases {
    pub(super) fn of(connect: &Connect) -> Option<Self> {
        let phases = connect.phases?;
        Some(Self {
            before_search_ns: phases.before_search_ns,
            after_search_ns: connect.after_search_ns(),
            preempted: Split::of(phases.preempted),
            blocked: Split::of(phases.blocked),
            lock_waits: phases.lock_waits.map(Locks::of),
            causes: connect.ns_by_cause().map(Causes::of),
        })
    }
}

/// A time in the port search, and outside of it.
#[derive(Serialize)]
struct Split {
    in_search_ns: u64,
    elsewhere_ns: u64,
}

impl Split {
    fn of(split: connect::Split) -> Self {
        Self {
            in_search_ns: split.in_search_ns,
            elsewhere_ns: split.elsewhere_ns,
        }
    }
}

#[derive(Serialize)]
struct Locks {
    bhash_ns: u64,
    bhash2_ns: u64,
    ehash_ns: u64,
    other: Split,
}

impl Locks {
    fn of(waits: LockWaits) -> Self {
        Self {
            bhash_ns: waits.bhash_ns,
            bhash2_ns: waits.bhash2_ns,
            ehash_ns: waits.ehash_ns,
            other: Split::of(waits.other),
        }
    }
}

/// Times by cause, or numbers of calls.
#[derive(Serialize)]
struct Causes {
    ports: u64,
    locks: u64,
    scheduler: u64,
    blocked: u64,
    stack: u64,
}

impl Causes {
    fn of(values: [u64; Cause::ALL.len()]) -> Self {
        Self {
            ports: values[Cause::Ports.index()],
            locks: values[Cause::Locks.index()],
            scheduler: values[Cause::Scheduler.index()],
            blocked: values[Cause::Blocked.index()],
            stack: values[Cause::Stack.index()],
        }
    }
}

/// The parts of all calls of a report.
#[derive(Serialize)]
pub(super) struct ReportPhases {
    before_search: Times,
    search: Times,
    after_search: Times,
    all: ByCause,
    slow: ByCause,
    slow_from_ns: u64,
    lock_waits: Option<Locks>,
    unknown: u64,
}

#[derive(Serialize)]
struct ByCause {
    connects: u64,
    total_ns: Causes,
    mainly: Causes,
}

impl ByCause {
    fn of(by_cause: &stats::ByCause) -> Self {
        Self {
            connects: by_cause.connects,
            total_ns: Causes::of(by_cause.total_ns),
            mainly: Causes::of(by_cause.mainly),
        }
    }
}

impl ReportPhases {
    pub(super) fn of(summary: &Summary) -> Option<Self> {
        let phases = &summary.phases;
        phases.any().then(|| Self {
            before_search: Times::of(&phases.before_search),
            search: Times::of(&phases.search),
            after_search: Times::of(&phases.after_search),
            all: ByCause::of(&phases.all),
            slow: ByCause::of(&phases.slow),
            slow_from_ns: stats::phases::SLOW_NS,
            lock_waits: phases.lock_waits.map(Locks::of),
            unknown: unknown(summary),
        })
    }
}
