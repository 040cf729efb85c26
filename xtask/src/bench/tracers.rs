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

/// Name, rounds (none: those of the long run), and command.
const TRACERS: &[(&str, Option<u32>, &str)] = &[
    (UNTRACED, Some(2), ""),
    (FUNCLATENCY, Some(1), "funclatency tcp_v4_connect"),
    (
        FUNCLATENCY_CHECKS,
        Some(1),
        "funclatency __inet_check_established",
    ),
    (BPFTRACE, Some(1), HISTOGRAM),
    ("tcpconnlat", Some(1), "tcpconnlat"),
    (FENTRY, Some(2), ours!("fentry", "off")),
    (FENTRY_COUNT, Some(1), ours!("fentry", "count")),
    (FENTRY_TIME, Some(1), ours!("fentry", "time")),
    (
        "fentry, --events",
        Some(1),
        concat!(ours!("fentry", "off"), " --events"),
    ),
    (
        "fentry, --pid",
        Some(1),
        concat!(ours!("fentry", "off"), " --pid TARGET"),
    ),
    (
        FENTRY_OTHER,
        Some(1),
        concat!(ours!("fentry", "off"), " --pid 1"),
    ),
    (KPROBE, Some(2), ours!("kprobe", "off")),
    ("kprobe, checks count", Some(1), ours!("kprobe", "count")),
    ("kprobe, checks time", Some(1), ours!("kprobe", "time")),
    (
        "kprobe, --pid",
        Some(1),
        concat!(ours!("kprobe", "off"), " --pid TARGET"),
    ),
    (
        "kprobe, --pid of another",
        Some(1),
        concat!(ours!("kprobe", "off"), " --pid 1"),
    ),
    (DEFAULT, None, "connect-trace"),
];

/// The lines that `guest.sh` takes: those that are wanted, and the untraced.
pub(super) fn lines(rounds: u32, wanted: impl Fn(&str) -> bool) -> String {
    let lines = TRACERS
        .iter()
        .filter(|(name, ..)| *name == UNTRACED || wanted(name))
        .map(|(name, own, command)| format!("{name}\t{}\t{command}", own.unwrap_or(rounds)));
    lines.collect::<Vec<_>>().join("\n")
}
