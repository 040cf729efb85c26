//! The measured tracers: their names, and the commands that start them in a guest.

/// No tracer: the baseline.
pub(crate) const UNTRACED: &str = "untraced";
/// Third-party tracer to compare with, for a whole connect().
pub(crate) const FUNCLATENCY: &str = "funclatency tcp_v4_connect";
/// Third-party tracer to compare with, for each candidate port.
pub(crate) const FUNCLATENCY_CHECKS: &str = "funclatency __inet_check_established";
/// Third-party tracer to compare with that attaches by kprobe.
pub(crate) const BPFTRACE: &str = "bpftrace kprobe+kretprobe, hist";
/// Only the record, by each way to attach.
pub(crate) const FENTRY: &str = "fentry";
pub(crate) const KPROBE: &str = "kprobe";
/// A trace with the `--pid` of another process.
pub(crate) const FENTRY_OTHER: &str = "fentry, --pid of another";
/// A trace that counts each call of `__inet_check_established`.
pub(crate) const FENTRY_COUNT: &str = "fentry, checks count";
pub(crate) const FENTRY_TIME: &str = "fentry, checks time";
/// A service whose calls are all summed in the kernel: each is below the minimum latency.
pub(crate) const FENTRY_SERVE: &str = "fentry, serve";
/// A trace with the default options.
pub(crate) const DEFAULT: &str = "default";
/// The same connections from each of many threads that are all alive.
pub(crate) const UNTRACED_CROWD: &str = "untraced, 512 threads";
pub(crate) const FENTRY_CROWD: &str = "fentry, 512 threads";
pub(crate) const KPROBE_CROWD: &str = "kprobe, 512 threads";

/// A connect() of UDP.
pub(crate) const UNTRACED_UDP: &str = "untraced, UDP";
/// End of the names of connections on a range whose even ports are in TIME_WAIT.
pub(crate) const WAITING: &str = "TIME_WAIT";
pub(crate) const UNTRACED_WAITING: &str = "untraced, TIME_WAIT";

/// Tracers that `cargo xtask bench-parts` breaks down by default: those that miss a target, and the third-party tracer
/// to compare with.
const BROKEN_DOWN: [&str; 4] = [FUNCLATENCY, FENTRY, FENTRY_OTHER, KPROBE];

/// Expands to a tracer's command: connect-trace with a way to attach and a way to watch candidate checks.
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

/// Expands to the command of a mitigation of the cgroup that guest.sh makes.
macro_rules! mitigate {
    ($strategy:literal) => {
        concat!(
            "connect-trace mitigate --attach fentry --cgroup /bench ",
            $strategy
        )
    };
}

const HISTOGRAM: &str = "bpftrace -e 'kprobe:tcp_v4_connect { @start[tid] = nsecs; } \
    kretprobe:tcp_v4_connect /@start[tid]/ { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }'";

/// Whole connections, from open to close.
pub(crate) const UNTRACED_LIFETIME: &str = "untraced, open to close";

/// Load while a tracer is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// One thread, with this number of rounds.
    Rounds(u32),
    /// One thread, with the number of rounds of the long run.
    Long,
    /// 512 threads.
    Crowd,
    /// One thread that connects sockets of UDP.
    Udp,
    /// Whole connections of one thread.
    Lifetime,
    /// One thread, with the even ports in TIME_WAIT.
    Waiting,
}

use Load::{Crowd, Lifetime, Long, Rounds, Udp, Waiting};

/// Name, load and command of a tracer.
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
        // In each run the lines are written at other moments.
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
    (
        "fentry, --phases",
        Rounds(1),
        concat!(ours!("fentry", "off"), " --phases"),
    ),
    (
        "fentry, --time-wait",
        Rounds(1),
        concat!(ours!("fentry", "off"), " --time-wait"),
    ),
    (
        FENTRY_SERVE,
        Rounds(1),
        "connect-trace serve --attach fentry --min-latency 1s",
    ),
    (
        "fentry, serve, a record of each",
        Rounds(1),
        "connect-trace serve --attach fentry --min-latency 1ns",
    ),
    (
        "kprobe, serve",
        Rounds(1),
        "connect-trace serve --attach kprobe --min-latency 1s",
    ),
    (
        "fentry, mitigate, idle",
        Rounds(1),
        concat!(mitigate!("select-test-repeat"), " --when-above 100%"),
    ),
    // Random ports need another number of tries in each run.
    (
        "fentry, mitigate, select-test-repeat",
        Rounds(12),
        concat!(mitigate!("select-test-repeat"), " --when-above 0%"),
    ),
    (
        "fentry, mitigate, addresses",
        Rounds(1),
        concat!(
            mitigate!("addresses --addresses 127.0.0.1"),
            " --when-above 0%"
        ),
    ),
    (KPROBE, Rounds(2), ours!("kprobe", "off")),
    (
        "kprobe, --phases",
        Rounds(1),
        concat!(ours!("kprobe", "off"), " --phases"),
    ),
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
    // The clock's ticks meet other instructions in each run.
    (
        "fentry, --flame",
        Rounds(12),
        concat!(ours!("fentry", "off"), " --flame flame.folded"),
    ),
    (
        "kprobe, --flame",
        Rounds(12),
        concat!(ours!("kprobe", "off"), " --flame flame.folded"),
    ),
    (
        "kprobe, --time-wait",
        Rounds(1),
        concat!(ours!("kprobe", "off"), " --time-wait"),
    ),
    (DEFAULT, Long, "connect-trace"),
    (UNTRACED_CROWD, Crowd, ""),
    (FENTRY_CROWD, Crowd, ours!("fentry", "off")),
    (KPROBE_CROWD, Crowd, ours!("kprobe", "off")),
    (UNTRACED_UDP, Udp, ""),
    ("fentry of TCP, UDP", Udp, ours!("fentry", "off")),
    (
        "fentry, UDP",
        Udp,
        concat!(ours!("fentry", "off"), " --protocol udp"),
    ),
    (
        "fentry --pid of another, UDP",
        Udp,
        concat!(ours!("fentry", "off"), " --protocol udp --pid 1"),
    ),
    (
        "kprobe, UDP",
        Udp,
        concat!(ours!("kprobe", "off"), " --protocol udp"),
    ),
    (UNTRACED_LIFETIME, Lifetime, ""),
    ("tcplife, open to close", Lifetime, "tcplife"),
    ("tcpconnlat, open to close", Lifetime, "tcpconnlat"),
    ("fentry, open to close", Lifetime, ours!("fentry", "off")),
    (
        "fentry --ends, open to close",
        Lifetime,
        concat!(ours!("fentry", "off"), " --ends"),
    ),
    (
        "kprobe --ends, open to close",
        Lifetime,
        concat!(ours!("kprobe", "off"), " --ends"),
    ),
    (
        "fentry, serve, open to close",
        Lifetime,
        "connect-trace serve --attach fentry --min-latency 1s",
    ),
    (
        "fentry, serve --ports, open to close",
        Lifetime,
        "connect-trace serve --attach fentry --ports",
    ),
    (UNTRACED_WAITING, Waiting, ""),
    (
        "fentry, --time-wait, TIME_WAIT",
        Waiting,
        concat!(ours!("fentry", "off"), " --time-wait"),
    ),
    (
        "kprobe, --time-wait, TIME_WAIT",
        Waiting,
        concat!(ours!("kprobe", "off"), " --time-wait"),
    ),
];

/// Returns the input lines of `guest.sh`: the tracers with one of these texts in their names, and the baseline.
pub(crate) fn lines(rounds: u32, only: &[String]) -> String {
    let lines = TRACERS
        .iter()
        .filter(|(name, ..)| only.is_empty() || is_untraced(name) || is_named(name, only));
    let lines = lines.map(|(name, load, command)| {
        let load = match load {
            Rounds(own) => own.to_string(),
            Long => rounds.to_string(),
            Crowd => "crowd".to_owned(),
            Udp => "udp-least".to_owned(),
            Lifetime => "lifetime".to_owned(),
            Waiting => "waiting".to_owned(),
        };
        format!("{name}\t{load}\t{command}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the input lines of `parts.sh`, for tracers chosen as in [`lines`].
pub(crate) fn lines_of_parts(only: &[String]) -> String {
    let is_wanted = |name: &str| match only {
        [] => BROKEN_DOWN.contains(&name),
        only => is_named(name, only),
    };
    let lines = TRACERS.iter().filter(|(name, load, _)| {
        matches!(load, Rounds(_) | Long) && (*name == UNTRACED || is_wanted(name))
    });
    let lines = lines.map(|(name, _, command)| format!("{name}\t{command}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_untraced(name: &str) -> bool {
    [
        UNTRACED,
        UNTRACED_CROWD,
        UNTRACED_UDP,
        UNTRACED_LIFETIME,
        UNTRACED_WAITING,
    ]
    .contains(&name)
}

/// Returns true if a name contains one of these texts.
fn is_named(name: &str, texts: &[String]) -> bool {
    texts.iter().any(|text| name.contains(text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(lines: &str) -> Vec<&str> {
        lines
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect()
    }

    #[test]
    fn the_tracers_that_are_asked_for_are_compared_with_the_untraced() {
        let only = ["checks count".to_owned()];
        let all = ["fentry, checks count", "kprobe, checks count"];
        assert_eq!(
            names(&lines(1, &only)),
            [
                &[UNTRACED][..],
                &all,
                &[
                    UNTRACED_CROWD,
                    UNTRACED_UDP,
                    UNTRACED_LIFETIME,
                    UNTRACED_WAITING
                ]
            ]
            .concat()
        );
        assert_eq!(
            names(&lines_of_parts(&only)),
            [&[UNTRACED][..], &all].concat()
        );
        assert_eq!(names(&lines(1, &[])).len(), TRACERS.len());
        let default = [&[UNTRACED][..], &BROKEN_DOWN].concat();
        assert_eq!(names(&lines_of_parts(&[])), default);
    }
}
