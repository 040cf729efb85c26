//! The notes of a recording, which describe its trace: one at its start and one at its end. A note has lines
//! of `key: value`, and a last line with a checksum of the others.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    net::SocketAddr,
    str::FromStr,
    time::{Duration, SystemTime},
};

use connect_trace_common::{BUCKETS, CheckEstablished, Counters, EndCounters, FastGroup, Times};

use super::FORMAT;
use crate::{
    clock::Clock,
    connect::{CheckMode, Connect},
    kernel::prototypes::CHECKS,
    stats::{
        BelowMinimum, EndsAccount,
        accounting::Accounting,
        report::{Checks, KernelSide},
        route_ports::RoutePorts,
    },
    term::{numbers::counted, printable::printable},
};

/// First lines of the notes. The first line of the start is the same in recordings of every format.
pub(super) const START: &str = "connect-trace recording";
const END: &str = "connect-trace end";
pub(super) const KEPT: &str = "connect-trace kept";

/// The note at the start of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The version of connect-trace that wrote the recording.
    pub version: String,
    /// Name of the host, `/proc/sys/kernel/hostname`.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// Mode of attaching the programs, in words.
    pub attached: String,
    /// Options that leave connections out, as typed; empty if there were none.
    pub filters: String,
    /// Time of day, nanoseconds since 1970 (`CLOCK_REALTIME`).
    pub wall_ns: u64,
    /// Same moment on the clock of the events (`CLOCK_MONOTONIC`).
    pub monotonic_ns: u64,
}

/// The note at the end of a trace.
#[derive(Clone, Debug)]
pub struct End {
    /// Connections in the recording.
    pub events: u64,
    /// Events of connections in the recording.
    pub ends: u64,
    /// End of the trace, nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// Counters of the kernel's side for the whole trace.
    pub kernel_side: KernelSide,
}

/// The note at the start of a recording that was in memory until a condition held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The condition.
    pub condition: String,
    /// Number of connections for which a condition held, since the file before.
    pub held: u64,
    /// Start of the first of them, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Its process id.
    pub pid: u32,
    /// Its thread's name, printable.
    pub comm: String,
    /// Its destination, if it has one.
    pub destination: Option<SocketAddr>,
    /// The ports of its route when the recording was written, if they could be read.
    pub ports: Option<RoutePorts>,
}

/// Reason why a note cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoteError {
    /// Not a note of connect-trace.
    Foreign,
    /// A newer format: its number, and the version of connect-trace that wrote it.
    Newer(u32, String),
    /// The checksum does not match, or something is missing.
    Damaged,
}

impl Start {
    /// Returns the time of day of a moment of the events' clock.
    #[must_use]
    pub fn wall_clock(&self, monotonic_ns: u64) -> SystemTime {
        let since = monotonic_ns.saturating_sub(self.monotonic_ns);
        let wall = Duration::from_nanos(self.wall_ns.saturating_add(since));
        SystemTime::UNIX_EPOCH + wall
    }

    /// Returns the same start at another moment, with the time of day by this clock.
    pub(super) fn at(&self, monotonic_ns: u64, clock: Clock) -> Self {
        let wall_ns = i128::from(monotonic_ns) + i128::from(clock.offset_ns());
        Self {
            wall_ns: u64::try_from(wall_ns).unwrap_or(0),
            monotonic_ns,
            ..self.clone()
        }
    }

    /// Returns whether both starts give a moment the same time of day.
    pub(super) fn has_clock_of(&self, other: &Self) -> bool {
        self.wall_ns.wrapping_sub(self.monotonic_ns)
            == other.wall_ns.wrapping_sub(other.monotonic_ns)
    }

    /// Returns the text of the note.
    pub(super) fn text(&self) -> String {
        let mut note = Note::new(START);
        note.line("format", FORMAT);
        note.line("version", &self.version);
        note.line("host", &self.host);
        note.line("kernel", &self.kernel);
        note.line("attached", &self.attached);
        note.line("filters", &self.filters);
        note.line("started_wall_ns", self.wall_ns);
        note.line("started_monotonic_ns", self.monotonic_ns);
        note.finish()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if !bytes.starts_with(START.as_bytes()) {
            return Err(NoteError::Foreign);
        }
        // A newer format is recognized before anything else is read, which may have changed.
        let lines = lines(bytes);
        match lines.number::<u32>("format") {
            Some(format) if format > FORMAT => {
                let version = lines.text("version").unwrap_or_default();
                return Err(NoteError::Newer(format, version));
            }
            _ => {}
        }
        let lines = checked(bytes).ok_or(NoteError::Damaged)?;
        let start = || {
            Some(Self {
                version: lines.text("version")?,
                host: lines.text("host")?,
                kernel: lines.text("kernel")?,
                attached: lines.text("attached")?,
                filters: lines.text("filters")?,
                wall_ns: lines.number("started_wall_ns")?,
                monotonic_ns: lines.number("started_monotonic_ns")?,
            })
        };
        start().ok_or(NoteError::Damaged)
    }
}

impl End {
    /// Returns the text of the note.
    pub(super) fn text(&self) -> String {
        let Accounting {
            kernel,
            decoded,
            undecodable,
            in_flight,
            recursion_misses,
            kretprobe_misses,
            fork_misses,
            thread_end_misses,
            moved,
            blind,
            unknown: _,
        } = self.kernel_side.accounting;
        let Counters {
            entered,
            reported,
            ring_full,
            in_flight_full,
            return_missed,
            filtered,
            search_return_missed,
            succeeded,
            fast,
            not_followed,
            unsampled,
        } = kernel;
        let checks = &self.kernel_side.checks;
        let mut note = Note::new(END);
        note.line("events", self.events);
        note.line("ends", self.ends);
        note.line(ENDED, self.monotonic_ns);
        note.line("entered", entered);
        note.line("reported", reported);
        note.line("ring_full", ring_full);
        note.line("in_flight_full", in_flight_full);
        note.line("return_missed", return_missed);
        note.line("filtered", filtered);
        note.line("search_return_missed", search_return_missed);
        note.line("succeeded", succeeded);
        note.line("fast", fast);
        note.line("not_followed", not_followed);
        note.line("unsampled", unsampled);
        note.line("decoded", decoded);
        note.line("undecodable", undecodable);
        note.line("in_flight", in_flight);
        for (name, misses) in [
            ("recursion_misses", recursion_misses),
            ("kretprobe_misses", kretprobe_misses),
            ("fork_misses", fork_misses),
            ("thread_end_misses", thread_end_misses),
        ] {
            if let Some(misses) = misses {
                note.line(name, misses);
            }
        }
        note.line("moved", moved);
        note.line("blind_ns", nanoseconds(blind));
        note.line("checks", checks.mode);
        note.line("checks_bursts", checks.bursts);
        note.line("checks_watched_ns", nanoseconds(checks.watched));
        for (name, seen) in &checks.functions {
            let CheckEstablished { calls, times } = seen;
            note.line(name, format!("{calls} {}", times_text(times)));
        }
        for (name, times) in fast_times(&self.kernel_side.fast) {
            note.line(name, times_text(&times));
        }
        if let Some(account) = &self.kernel_side.ends {
            ends_lines(&mut note, account);
        }
        note.finish()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if !bytes.starts_with(END.as_bytes()) {
            return Err(NoteError::Foreign);
        }
        let lines = checked(bytes).filter(Lines::can_be_added);
        let end = lines.and_then(|lines| Self::of(&lines));
        end.ok_or(NoteError::Damaged)
    }

    fn of(lines: &Lines) -> Option<Self> {
        let functions = CHECKS
            .iter()
            .filter_map(|function| Some((function.name, check(&lines.text(function.name)?)?)))
            .collect();
        let group = |name: &str| {
            let times = |what: &str| times(&lines.text(&format!("fast_{name}_{what}"))?);
            Some(FastGroup {
                connect: times("connect")?,
                search: times("search")?,
            })
        };
        let kernel_side = KernelSide {
            checks: Checks {
                mode: CheckMode::named(&lines.text("checks")?)?,
                bursts: lines.number("checks_bursts")?,
                watched: Duration::from_nanos(lines.number("checks_watched_ns")?),
                functions,
            },
            accounting: Accounting {
                kernel: Counters {
                    entered: lines.number("entered")?,
                    reported: lines.number("reported")?,
                    ring_full: lines.number("ring_full")?,
                    in_flight_full: lines.number("in_flight_full")?,
                    return_missed: lines.number("return_missed")?,
                    filtered: lines.number("filtered")?,
                    search_return_missed: lines.number("search_return_missed")?,
                    succeeded: lines.number("succeeded")?,
                    fast: lines.number("fast")?,
                    not_followed: lines.number("not_followed")?,
                    unsampled: lines.number("unsampled").unwrap_or(0),
                },
                decoded: lines.number("decoded")?,
                undecodable: lines.number("undecodable")?,
                in_flight: lines.number("in_flight")?,
                recursion_misses: lines.number("recursion_misses"),
                kretprobe_misses: lines.number("kretprobe_misses"),
                fork_misses: lines.number("fork_misses"),
                thread_end_misses: lines.number("thread_end_misses"),
                moved: lines.number("moved")?,
                blind: Duration::from_nanos(lines.number("blind_ns").unwrap_or(0)),
                unknown: None,
            },
            fast: BelowMinimum {
                even: group("even")?,
                odd: group("odd")?,
                bound: group("bound")?,
                failed: group("failed")?,
            },
            ends: ends_of(lines),
            ..KernelSide::default()
        };
        Some(Self {
            events: lines.number("events")?,
            ends: lines.number("ends").unwrap_or(0),
            monotonic_ns: lines.number(ENDED)?,
            kernel_side,
        })
    }
}

impl Kept {
    /// Returns the note on a connection for which a condition held.
    pub(super) fn of(condition: String, connect: &Connect) -> Self {
        Self {
            condition,
            held: 1,
            at_ns: connect.start_ns,
            pid: connect.pid,
            comm: connect.comm.to_string(),
            destination: connect.destination,
            ports: None,
        }
    }

    /// Returns the text of the note.
    pub(super) fn text(&self) -> String {
        let mut note = Note::new(KEPT);
        note.line("condition", &self.condition);
        note.line("held", self.held);
        note.line("at_monotonic_ns", self.at_ns);
        note.line("pid", self.pid);
        note.line("comm", &self.comm);
        if let Some(destination) = self.destination {
            note.line("destination", destination);
        }
        // Numbers and texts can always be written as JSON.
        if let Some(Ok(ports)) = self.ports.as_ref().map(serde_json::to_string) {
            note.line("ports", ports);
        }
        note.finish()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if !bytes.starts_with(KEPT.as_bytes()) {
            return Err(NoteError::Foreign);
        }
        let lines = checked(bytes).ok_or(NoteError::Damaged)?;
        let kept = || {
            Some(Self {
                condition: lines.text("condition")?,
                held: lines.number("held")?,
                at_ns: lines.number("at_monotonic_ns")?,
                pid: lines.number("pid")?,
                comm: lines.text("comm")?,
                destination: lines.number("destination"),
                // A later version may have other fields.
                ports: lines
                    .text("ports")
                    .and_then(|ports| serde_json::from_str(&ports).ok()),
            })
        };
        kept().ok_or(NoteError::Damaged)
    }
}

impl fmt::Display for Kept {
    /// Writes the reason as the end of a sentence.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            condition,
            held,
            pid,
            comm,
            ..
        } = self;
        write!(
            formatter,
            "{condition} held for {}",
            counted(*held, "call", "calls")
        )?;
        let first = if *held == 1 { "" } else { ", at first" };
        write!(formatter, "{first}: pid {pid} ({comm})")?;
        match self.destination {
            Some(destination) => write!(formatter, " to {destination}"),
            None => Ok(()),
        }
    }
}

/// Writes the account of the connections that were followed.
fn ends_lines(note: &mut Note, account: &EndsAccount) {
    let EndsAccount {
        kernel,
        established_read,
        ended_read,
        undecodable,
        left,
        skipped,
    } = *account;
    let EndCounters {
        followed,
        map_full,
        replaced,
        established,
        established_lost,
        ended,
        ended_lost,
        others,
    } = kernel;
    note.line("ends_followed", followed);
    note.line("ends_map_full", map_full);
    note.line("ends_replaced", replaced);
    note.line("ends_established", established);
    note.line("ends_established_lost", established_lost);
    note.line("ends_ended", ended);
    note.line("ends_ended_lost", ended_lost);
    note.line("ends_others", others);
    note.line("ends_established_read", established_read);
    note.line("ends_ended_read", ended_read);
    note.line("ends_undecodable", undecodable);
    for (name, count) in [("ends_left", left), ("ends_skipped", skipped)] {
        if let Some(count) = count {
            note.line(name, count);
        }
    }
}

/// Returns the account of the connections that were followed; `None` if none were.
fn ends_of(lines: &Lines) -> Option<EndsAccount> {
    Some(EndsAccount {
        kernel: EndCounters {
            followed: lines.number("ends_followed")?,
            map_full: lines.number("ends_map_full")?,
            replaced: lines.number("ends_replaced")?,
            established: lines.number("ends_established")?,
            established_lost: lines.number("ends_established_lost")?,
            ended: lines.number("ends_ended")?,
            ended_lost: lines.number("ends_ended_lost")?,
            others: lines.number("ends_others")?,
        },
        established_read: lines.number("ends_established_read")?,
        ended_read: lines.number("ends_ended_read")?,
        undecodable: lines.number("ends_undecodable")?,
        left: lines.number("ends_left"),
        skipped: lines.number("ends_skipped"),
    })
}

/// Returns the times of the calls below `--min-latency`, each with its key.
fn fast_times(fast: &BelowMinimum) -> [(&'static str, Times); 8] {
    [
        ("fast_even_connect", fast.even.connect),
        ("fast_even_search", fast.even.search),
        ("fast_odd_connect", fast.odd.connect),
        ("fast_odd_search", fast.odd.search),
        ("fast_bound_connect", fast.bound.connect),
        ("fast_bound_search", fast.bound.search),
        ("fast_failed_connect", fast.failed.connect),
        ("fast_failed_search", fast.failed.search),
    ]
}

/// Writes times as numbers: count, sum, longest, and buckets.
fn times_text(times: &Times) -> String {
    let Times {
        count,
        total_ns,
        max_ns,
        buckets,
    } = times;
    let numbers = [count, total_ns, max_ns].into_iter().chain(buckets);
    let numbers: Vec<String> = numbers.map(u64::to_string).collect();
    numbers.join(" ")
}

fn times(text: &str) -> Option<Times> {
    let numbers = numbers(text)?;
    let (&[count, total_ns, max_ns], buckets) = numbers.split_first_chunk()?;
    Some(Times {
        count,
        total_ns,
        max_ns,
        buckets: <[u64; BUCKETS]>::try_from(buckets).ok()?,
    })
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split(' ').map(|number| number.parse().ok()).collect()
}

fn check(text: &str) -> Option<CheckEstablished> {
    let (calls, text) = text.split_once(' ')?;
    Some(CheckEstablished {
        calls: calls.parse().ok()?,
        times: times(text)?,
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A note that is being written.
struct Note(String);

impl Note {
    fn new(title: &str) -> Self {
        Self(format!("{title}\n"))
    }

    fn line(&mut self, key: &str, value: impl ToString) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key}: {}", printable(&value.to_string()));
    }

    fn finish(mut self) -> String {
        let sum = checksum(self.0.as_bytes());
        let _ = writeln!(self.0, "{CHECKSUM}{sum:016x}");
        self.0
    }
}

const CHECKSUM: &str = "checksum: ";

/// Key of the end of the trace, which is a time of a clock.
const ENDED: &str = "ended_monotonic_ns";

/// Maximum of a count, and of a sum of nanoseconds (36 years): no sum of those in a note overflows.
const MOST: u64 = 1 << 60;

/// Returns the lines of a note if its checksum is right.
fn checked(bytes: &[u8]) -> Option<Lines> {
    // The line of the checksum has a fixed length.
    let at = bytes.len().checked_sub(CHECKSUM.len() + 16 + 1)?;
    let (text, last) = bytes.split_at(at);
    let expected = format!("{CHECKSUM}{:016x}\n", checksum(text));
    (last == expected.as_bytes()).then(|| lines(text))
}

/// FNV-1a of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Values by key.
struct Lines(HashMap<String, String>);

fn lines(bytes: &[u8]) -> Lines {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text.lines().filter_map(|line| line.split_once(": "));
    Lines(
        pairs
            .map(|(key, value)| (key.to_owned(), printable(value).to_string()))
            .collect(),
    )
}

impl Lines {
    /// Returns true if all counts and sums are possible ones.
    fn can_be_added(&self) -> bool {
        self.0.iter().all(|(key, value)| {
            let mut numbers = value.split(' ').filter_map(|word| word.parse::<u64>().ok());
            key == ENDED || numbers.all(|number| number <= MOST)
        })
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    fn number<T: FromStr>(&self, key: &str) -> Option<T> {
        self.0.get(key)?.parse().ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a note with its checksum.
    pub(crate) fn with_checksum(lines: &str) -> String {
        Note(lines.to_owned()).finish()
    }

    pub(crate) fn start() -> Start {
        Start {
            version: "0.1.0".to_owned(),
            host: "web1".to_owned(),
            kernel: "6.12.0".to_owned(),
            attached: "fentry/fexit".to_owned(),
            filters: String::new(),
            wall_ns: 1_700_000_000_000_000_000,
            monotonic_ns: 5_000_000_000,
        }
    }

    pub(crate) fn end(events: u64) -> End {
        End {
            events,
            ends: 0,
            monotonic_ns: 7_000_000_000,
            kernel_side: KernelSide {
                checks: Checks {
                    mode: CheckMode::Sampled,
                    bursts: 2,
                    watched: Duration::from_millis(30),
                    functions: CHECKS
                        .iter()
                        .zip(1..)
                        .map(|(function, calls)| {
                            let mut seen = CheckEstablished {
                                calls,
                                ..CheckEstablished::default()
                            };
                            seen.times.buckets[2] = calls;
                            (function.name, seen)
                        })
                        .collect(),
                },
                accounting: Accounting {
                    kernel: Counters {
                        entered: events + 28,
                        reported: events,
                        ring_full: 1,
                        in_flight_full: 2,
                        return_missed: 3,
                        filtered: 4,
                        search_return_missed: 5,
                        succeeded: 6,
                        fast: 7,
                        not_followed: 8,
                        unsampled: 9,
                    },
                    decoded: events,
                    recursion_misses: Some(7),
                    fork_misses: Some(6),
                    thread_end_misses: Some(5),
                    blind: Duration::from_millis(10),
                    ..Accounting::default()
                },
                fast: crate::fixtures::below_minimum(9),
                ends: Some(EndsAccount {
                    kernel: EndCounters {
                        followed: 1,
                        map_full: 2,
                        replaced: 3,
                        established: 4,
                        established_lost: 5,
                        ended: 6,
                        ended_lost: 7,
                        others: 8,
                    },
                    established_read: 9,
                    ended_read: 10,
                    undecodable: 11,
                    left: Some(12),
                    skipped: Some(13),
                }),
                ..KernelSide::default()
            },
        }
    }

    #[test]
    fn a_start_is_read_as_it_was_written() {
        let start = Start {
            filters: "--comm a: b --dport 443".to_owned(),
            ..start()
        };
        assert_eq!(Start::parse(start.text().as_bytes()), Ok(start));
    }

    #[test]
    fn an_end_is_read_as_it_was_written() {
        let end = end(94);
        let read = End::parse(end.text().as_bytes()).unwrap();
        assert_eq!(read.kernel_side.accounting, end.kernel_side.accounting);
        assert_eq!(format!("{read:?}"), format!("{end:?}"));
    }

    #[test]
    fn a_byte_that_changed_is_noticed() {
        let text = start().text().into_bytes();
        for at in START.len()..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            let read = Start::parse(&changed);
            assert!(
                matches!(read, Err(NoteError::Damaged | NoteError::Newer(..))),
                "byte {at}: {read:?}"
            );
        }
    }

    #[test]
    fn a_count_that_cannot_be_is_damage() {
        let text = end(3).text();
        let lines = &text[..text.rfind(CHECKSUM).unwrap()];
        for (count, is_right) in [(MOST, true), (MOST + 1, false), (u64::MAX, false)] {
            let note =
                with_checksum(&lines.replace("ring_full: 1", &format!("ring_full: {count}")));
            assert_eq!(End::parse(note.as_bytes()).is_ok(), is_right, "{count}");
        }
    }

    #[test]
    fn a_newer_format_is_told_whatever_else_it_says() {
        let text = "connect-trace recording\nformat: 2\nversion: 3.1.4\nsomething new\n";
        let expected = NoteError::Newer(2, "3.1.4".to_owned());
        assert_eq!(Start::parse(text.as_bytes()), Err(expected));
    }

    #[test]
    fn a_name_cannot_add_a_line_or_reach_the_terminal() {
        let start = Start {
            host: "a\nformat: 9\x1b[2J".to_owned(),
            ..start()
        };
        let read = Start::parse(start.text().as_bytes()).unwrap();
        assert_eq!(read.host, r"a\nformat: 9\x1b[2J");
    }
}
