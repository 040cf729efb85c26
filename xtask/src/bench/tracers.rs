//! The tracers that are measured: their names, and the commands that start them in a guest.

/// Nothing: what the others are compared with.
pub(super) const UNTRACED: &str = "untraced";
/// The peer for a whole connect().
pub(super) const FUNCLATENCY: &str = "funclatency tcp_v4_connect";
/// The peer for each candidate port.
pub(super) const FUNCLATENCY_CHECKS: &str = "funclatency __inet_check_established";
/// The peer that attaches by kprobe.
pub(super) const BPFTRACE: &str = "bpftrace kprobe+kretprobe, hist";
/// The record alone, by each way to attach.
pub(super) const FENTRY: &str = "fentry";
pub(super) const KPROBE: &str = "kprobe";
/// A `--pid` of another process.
pub(super) const FENTRY_OTHER: &str = "fentry, --pid of another";
/// Each call of `__inet_check_established`.
pub(super) const FENTRY_COUNT: &str = "fentry, checks count";
pub(super) const FENTRY_TIME: &str = "fentry, checks time";
/// All as it is without options.
pub(super) const DEFAULT: &str = "default";
/// The same connects from each of many threads that are all alive.
pub(super) const UNTRACED_CROWD: &str = "untraced, 512 threads";
pub(super) const FENTRY_CROWD: &str = "fentry, 512 threads";
pub(super) const KPROBE_CROWD: &str = "kprobe, 512 threads";

/// What `cargo xtask listing` lists by default: what misses its target, and the peers that it is compared
/// with.
pub(super) const LISTED: [&str; 6] = [
    FUNCLATENCY,
    FUNCLATENCY_CHECKS,
    FENTRY,
    FENTRY_COUNT,
    FENTRY_OTHER,
    KPROBE,
];

/// connect-trace, attached in a way, watching port checks in a way.
macro_rules! ours {
    ($attach:literal, $checks:literal) => {
        concat!(
            "connect-trace --attach ",
            $attach,
            " --check-established ",
            $checks
        )
    };
}

const HISTOGRAM: &str = "bpftrace -e 'kprobe:tcp_v4_connect { @start[tid] = nsecs; } \
    kretprobe:tcp_v4_connect /@start[tid]/ { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }'";

/// How connects are made beside a tracer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// From one thread, in so many rounds.
    Rounds(u32),
    /// From one thread, in as many rounds as the long run has.
    Long,
    /// From each of 512 threads.
    Crowd,
}

use Load::{Crowd, Long, Rounds};

/// Name, load and command.
type Tracer = (&'static str, Load, &'static str);

const TRACERS: &[Tracer] = &[
    (UNTRACED, Rounds(2), ""),
    (FUNCLATENCY, Rounds(1), "funclatency tcp_v4_connect"),
    (
        FUNCLATENCY_CHECKS,
        Rounds(1),
        "funclatency __inet_check_established",
    ),
    (BPFTRACE, Rounds(1), HISTOGRAM),
    ("tcpconnlat", Rounds(1), "tcpconnlat"),
    (FENTRY, Rounds(2), ours!("fentry", "off")),
    (FENTRY_COUNT, Rounds(1), ours!("fentry", "count")),
    (FENTRY_TIME, Rounds(1), ours!("fentry", "time")),
    (
        "fentry, --events",
        // Lines are written at other moments in each run.
        Rounds(12),
        concat!(ours!("fentry", "off"), " --events"),
    ),
    (
        "fentry, --pid",
        Rounds(1),
        concat!(ours!("fentry", "off"), " --pid TARGET"),
    ),
    (
        FENTRY_OTHER,
        Rounds(1),
        concat!(ours!("fentry", "off"), " --pid 1"),
    ),
    (KPROBE, Rounds(2), ours!("kprobe", "off")),
    ("kprobe, checks count", Rounds(1), ours!("kprobe", "count")),
    ("kprobe, checks time", Rounds(1), ours!("kprobe", "time")),
    (
        "kprobe, --pid",
        Rounds(1),
        concat!(ours!("kprobe", "off"), " --pid TARGET"),
    ),
    (
        "kprobe, --pid of another",
        Rounds(1),
        concat!(ours!("kprobe", "off"), " --pid 1"),
    ),
    (DEFAULT, Long, "connect-trace"),
    (UNTRACED_CROWD, Crowd, ""),
    (FENTRY_CROWD, Crowd, ours!("fentry", "off")),
    (KPROBE_CROWD, Crowd, ours!("kprobe", "off")),
];

/// The lines that `guest.sh` takes: those that are wanted, and the untraced.
pub(super) fn lines(rounds: u32, wanted: impl Fn(&str) -> bool) -> String {
    let is_wanted = |(name, ..): &Tracer| *name == UNTRACED_CROWD || wanted(name);
    of(is_wanted, |(name, load, command)| {
        let load = match load {
            Rounds(own) => own.to_string(),
            Long => rounds.to_string(),
            Crowd => "crowd".to_owned(),
        };
        format!("{name}\t{load}\t{command}")
    })
}

/// The lines that `listing.sh` takes: name, whether candidate ports are looked at too (`ports`, or `-`), and
/// command.
pub(super) fn listing_lines(wanted: impl Fn(&str) -> bool) -> String {
    let alone = |(name, load, _): &Tracer| *load != Crowd && wanted(name);
    of(alone, |(name, _, command)| {
        let ports = *name == UNTRACED || watches_checks(command);
        format!("{name}\t{}\t{command}", if ports { "ports" } else { "-" })
    })
}

fn of(wanted: impl Fn(&Tracer) -> bool, line: impl Fn(&Tracer) -> String) -> String {
    let chosen = TRACERS
        .iter()
        .filter(|tracer| tracer.0 == UNTRACED || wanted(tracer));
    chosen.map(line).collect::<Vec<_>>().join("\n")
}

/// Whether something of the tracer runs at each candidate port.
fn watches_checks(command: &str) -> bool {
    command
        .split_whitespace()
        .any(|word| ["__inet_check_established", "count", "time"].contains(&word))
}

/// Whether a name has one of these texts in it.
pub(super) fn is_named(name: &str, texts: &[String]) -> bool {
    texts.iter().any(|text| name.contains(text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_ports_are_looked_at_where_something_runs_at_each() {
        let lines = listing_lines(|name| {
            [FENTRY, FENTRY_COUNT, FUNCLATENCY, FUNCLATENCY_CHECKS].contains(&name)
        });
        let ports: Vec<&str> = lines
            .lines()
            .filter_map(|line| line.split('\t').nth(1))
            .collect();
        assert_eq!(ports, ["ports", "-", "ports", "-", "ports"]);
    }
}
