//! JSON of connections after their connect(): the line of an event, and the part of a report.

use std::io::{self, Write};

use serde::Serialize;

use super::{Event, Times, line};
use crate::{
    clock::Clock,
    connect::ConnectionEvent,
    stats::{self, EndsAccount, report::Report},
    term::errno,
};

/// Writes an event of a connection.
///
/// # Errors
/// If `out` cannot be written.
pub(crate) fn write_connection(
    out: &mut (impl Write + ?Sized),
    event: &ConnectionEvent,
    clock: &Clock,
) -> io::Result<()> {
    line(out, &Connection::of(event, clock))
}

/// An event of a connection: the fields of its connect(), and what became of it.
#[derive(Serialize)]
struct Connection {
    #[serde(flatten)]
    connect: Event,
    event: &'static str,
    outcome: &'static str,
    handshake_ns: Option<u64>,
    syn_retransmits: Option<u32>,
    end_ns: Option<u64>,
    end_errno: i32,
    end_errno_name: Option<String>,
}

impl Connection {
    fn of(event: &ConnectionEvent, clock: &Clock) -> Self {
        Self {
            connect: Event {
                r#type: "connection",
                time: clock.at(event.at_ns()).rfc3339(),
                ..Event::of(&event.connect, clock)
            },
            event: match event.end_ns {
                None => "established",
                Some(_) => "ended",
            },
            outcome: event.fate.name(),
            handshake_ns: event.handshake_ns,
            syn_retransmits: event.syn_retransmits,
            end_ns: event.end_ns,
            end_errno: event.errno,
            end_errno_name: (event.errno != 0).then(|| errno::name(event.errno)),
        }
    }
}

/// Handshakes, ends, and their account.
#[derive(Serialize)]
pub(super) struct Ends {
    handshakes: Vec<Handshakes>,
    lifetimes: Vec<Lifetimes>,
    accounting: Option<Account>,
}

#[derive(Serialize)]
struct Handshakes {
    outcome: &'static str,
    retransmitted: u64,
    times: Times,
}

#[derive(Serialize)]
struct Lifetimes {
    outcome: &'static str,
    times: Times,
}

#[derive(Serialize)]
struct Account {
    followed: u64,
    ended: u64,
    live: u64,
    unseen: u64,
    map_full: u64,
    events_lost: u64,
    events_in_ring: u64,
    others: u64,
    programs_skipped: Option<u64>,
    adds_up: bool,
    complete: bool,
}

impl Ends {
    /// Returns the part of a report; `None` if no connections were followed.
    pub(super) fn of(report: &Report) -> Option<Self> {
        let stats::Ends { handshakes, ages } = report.ends.as_ref()?;
        Some(Self {
            handshakes: handshakes
                .iter()
                .map(|(fate, handshakes)| Handshakes {
                    outcome: fate.name(),
                    retransmitted: handshakes.retransmitted,
                    times: Times::of(&handshakes.times),
                })
                .collect(),
            lifetimes: ages
                .iter()
                .map(|(fate, ages)| Lifetimes {
                    outcome: fate.name(),
                    times: Times::of(ages),
                })
                .collect(),
            accounting: report.ends_account.as_ref().map(Account::of),
        })
    }
}

impl Account {
    fn of(account: &EndsAccount) -> Self {
        let kernel = &account.kernel;
        Self {
            followed: kernel.followed,
            ended: kernel.ended,
            live: account.live(),
            unseen: kernel.replaced,
            map_full: kernel.map_full,
            events_lost: account.lost(),
            events_in_ring: account.in_ring(),
            others: kernel.others,
            programs_skipped: account.skipped,
            adds_up: account.adds_up(),
            complete: account.complete(),
        }
    }
}
