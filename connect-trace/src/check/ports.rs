//! The settings of the port search, in the network namespace of this process. Tracing does not need them, but they
//! explain its results.

use std::{collections::BTreeSet, fs, io};

use super::{
    finding::{Finding, Group, State},
    limits::{self, Conntrack},
    namespaces::{self, Other},
    services, window,
};
use crate::{
    connect::{
        PortRange,
        settings::{
            has_socket_range, is_absent, number, parsed, reserved_ranges, setting, the_range,
        },
    },
    kernel::layout::Layout,
    sockets,
};

/// The facts behind this group of findings. A setting is its text; an error of the kind `NotFound` is a setting that
/// this kernel does not have.
pub(super) struct Reading {
    /// net.ipv4.ip_local_port_range
    pub(super) range: io::Result<String>,
    /// net.ipv4.ip_local_reserved_ports
    pub(super) reserved: io::Result<String>,
    /// net.ipv4.tcp_tw_reuse
    pub(super) tw_reuse: io::Result<String>,
    /// net.ipv4.tcp_timestamps
    pub(super) timestamps: io::Result<String>,
    /// net.ipv4.ip_local_port_step_width
    pub(super) step_width: io::Result<String>,
    /// True if sockets have the option IP_LOCAL_PORT_RANGE.
    pub(super) socket_range: io::Result<bool>,
    /// True if a socket with that option searches by steps of one; `None` without BTF.
    pub(super) socket_range_by_one: Option<bool>,
    /// Ports of sockets that listen.
    pub(super) listeners: io::Result<BTreeSet<u16>>,
    /// Contents of /etc/services
    pub(super) services: io::Result<String>,
    /// net.ipv4.tcp_max_tw_buckets
    pub(super) time_wait_buckets: io::Result<String>,
    /// Limits of connection tracking.
    pub(super) conntrack: Conntrack,
    /// Other network namespaces.
    pub(super) others: io::Result<Vec<Other>>,
    /// Range of a socket that is tried, `--window`.
    pub(super) window: Option<PortRange>,
}

impl Reading {
    pub(super) fn of_this_namespace(layout: Option<&Layout>, window: Option<PortRange>) -> Self {
        Self {
            range: setting("ip_local_port_range"),
            reserved: setting("ip_local_reserved_ports"),
            tw_reuse: setting("tcp_tw_reuse"),
            timestamps: setting("tcp_timestamps"),
            step_width: setting("ip_local_port_step_width"),
            socket_range: has_socket_range(),
            socket_range_by_one: layout.map(|layout| layout.socket_range_has_no_parity),
            listeners: sockets::listening_ports(),
            services: fs::read_to_string(services::SERVICES),
            time_wait_buckets: setting("tcp_max_tw_buckets"),
            conntrack: Conntrack::of_this_namespace(),
            others: namespaces::others(),
            window,
        }
    }
}

const GROUP: Group = Group::Ports;

pub(super) fn findings(reading: &Reading) -> Vec<Finding> {
    let span = parsed("ip_local_port_range", &reading.range, the_range);
    let spans = parsed(
        "ip_local_reserved_ports",
        &reading.reserved,
        reserved_ranges,
    );
    let within = |name, finding: &dyn Fn(PortRange, &[PortRange]) -> Finding| match (&span, &spans)
    {
        (Ok(span), Ok(reserved)) => finding(*span, reserved),
        (Err(error), _) | (_, Err(error)) => unreadable(name, error),
    };
    let mut findings = vec![
        range(&span),
        first_pass(&span),
        within("reserved", &reserved),
        within("listeners", &|span, reserved| {
            services::listeners(&reading.listeners, span, reserved)
        }),
        within("services", &|span, reserved| {
            services::services(&reading.services, span, reserved)
        }),
        tw_reuse(&reading.tw_reuse, &reading.timestamps),
        within("time_wait_buckets", &|span, _| {
            limits::time_wait_buckets(&reading.time_wait_buckets, span)
        }),
        within("conntrack", &|span, _| reading.conntrack.finding(span)),
        step_width(&reading.step_width),
        socket_range(&reading.socket_range).since("6.3"),
        socket_range_step(reading).since("6.8"),
        within("other_ranges", &|span, _| {
            namespaces::finding(&reading.others, span)
        }),
    ];
    if let Some(tried) = reading.window {
        findings.push(within("window", &|span, _| window::window(tried, span)));
    }
    findings
}

fn range(span: &Result<PortRange, String>) -> Finding {
    const NAME: &str = "range";
    let span = match span {
        Ok(span) => *span,
        Err(error) => return unreadable(NAME, error),
    };
    let PortRange {
        low: first,
        high: last,
    } = span;
    let ports = span.ports();
    let value = format!("{first}-{last}: {ports} ports");
    let finding = Finding::ok(GROUP, NAME, value).data(serde_json::json!({
        "first": first, "last": last, "ports": ports,
    }));
    if ports > 1 && !ports.is_multiple_of(2) {
        return finding
            .note("an odd number: a search by parity leaves one of them out")
            .remedy("sysctl net.ipv4.ip_local_port_range with ends of different parity");
    }
    finding
}

fn first_pass(span: &Result<PortRange, String>) -> Finding {
    const NAME: &str = "first_pass";
    let span = match span {
        Ok(span) => *span,
        Err(error) => return unreadable(NAME, error),
    };
    let (first, second) = match span.low % 2 {
        0 => ("even", "odd"),
        _ => ("odd", "even"),
    };
    // If the number of ports is odd, one more has the parity of the first port.
    let in_first = span.ports().div_ceil(2);
    Finding::ok(
        GROUP,
        NAME,
        format!("the {in_first} {first} ports, then the {second} ones"),
    )
    .data(first.into())
}

fn reserved(span: PortRange, spans: &[PortRange]) -> Finding {
    const NAME: &str = "reserved";
    let within = spans.iter().map(|reserved| {
        let low = reserved.low.max(span.low);
        let high = reserved.high.min(span.high);
        PortRange { low, high }.ports()
    });
    let within: u32 = within.sum();
    let value = match within {
        0 => "none of the range".to_owned(),
        1 => "1 port of the range, skipped by the search".to_owned(),
        more => format!("{more} ports of the range, skipped by the search"),
    };
    Finding::ok(GROUP, NAME, value).data(within.into())
}

fn tw_reuse(setting: &io::Result<String>, timestamps: &io::Result<String>) -> Finding {
    const NAME: &str = "tw_reuse";
    let mode = match parsed("tcp_tw_reuse", setting, number) {
        Ok(mode) => mode,
        Err(error) => return unreadable(NAME, &error),
    };
    let meaning = match mode {
        0 => "a port in TIME_WAIT is not reused for the same destination",
        1 => "a port in TIME_WAIT is reused after about a second",
        2 => "a port in TIME_WAIT is reused after about a second, on loopback only",
        _ => "unknown value",
    };
    let finding = Finding::ok(GROUP, NAME, format!("{mode}: {meaning}")).data(mode.into());
    let without_timestamps = parsed("tcp_timestamps", timestamps, number) == Ok(0);
    if mode != 0 && without_timestamps {
        return Finding {
            state: State::Limited,
            ..finding
        }
        .note("without effect, because TCP timestamps are off")
        .remedy("sysctl net.ipv4.tcp_timestamps=1");
    }
    finding
}

fn step_width(setting: &io::Result<String>) -> Finding {
    const NAME: &str = "step_width";
    let finding = match parsed("ip_local_port_step_width", setting, number) {
        Ok(0) => Finding::ok(GROUP, NAME, "0: the search takes steps of two ports").data(0.into()),
        Ok(width) => Finding::ok(
            GROUP,
            NAME,
            format!("{width}: the search takes random steps of up to twice that width"),
        )
        .data(width.into()),
        Err(_) if is_absent(setting) => Finding {
            state: State::Missing,
            ..Finding::ok(GROUP, NAME, "the search takes steps of two ports")
        }
        .note("no net.ipv4.ip_local_port_step_width")
        .remedy("use a newer kernel if random steps are wanted"),
        Err(error) => unreadable(NAME, &error),
    };
    finding.since("7.1")
}

fn socket_range(option: &io::Result<bool>) -> Finding {
    const NAME: &str = "socket_range";
    match option {
        Ok(true) => Finding::ok(GROUP, NAME, "sockets have IP_LOCAL_PORT_RANGE"),
        Ok(false) => Finding {
            state: State::Missing,
            ..Finding::ok(GROUP, NAME, "")
        }
        .note("sockets have no IP_LOCAL_PORT_RANGE (stable 6.1 has it since 6.1.32)")
        .remedy(
            "use a newer kernel; until then, bind a random port, and try another if it is taken",
        ),
        Err(error) => Finding::unknown(
            GROUP,
            NAME,
            format!("cannot open a socket to try IP_LOCAL_PORT_RANGE: {error}"),
            "run it where TCP sockets are allowed",
        ),
    }
}

fn socket_range_step(reading: &Reading) -> Finding {
    const NAME: &str = "socket_range_step";
    match (&reading.socket_range, reading.socket_range_by_one) {
        (Ok(false), _) => Finding {
            state: State::Missing,
            ..Finding::ok(GROUP, NAME, "")
        }
        .note("there is no IP_LOCAL_PORT_RANGE")
        .remedy("use a newer kernel"),
        (_, None) => Finding::unknown(
            GROUP,
            NAME,
            "it is read from the kernel's types",
            "see btf and offsets above",
        ),
        (_, Some(true)) => Finding::ok(
            GROUP,
            NAME,
            "1: with IP_LOCAL_PORT_RANGE, even and odd ports together",
        )
        .data(1.into()),
        (_, Some(false)) => Finding::limited(
            GROUP,
            NAME,
            "2: one parity first, even with IP_LOCAL_PORT_RANGE",
            "the full range as IP_LOCAL_PORT_RANGE does not avoid the step",
        )
        .data(2.into())
        .remedy("use Linux 6.8 or later; until then, a randomly shifted range for each socket"),
    }
}

fn unreadable(name: &'static str, error: &str) -> Finding {
    Finding::unknown(
        GROUP,
        name,
        error,
        "mount /proc with the network's settings in /proc/sys/net",
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the settings that Linux 7.1 has by default.
    pub(in crate::check) fn defaults() -> Reading {
        Reading {
            range: Ok("32768\t60999\n".to_owned()),
            reserved: Ok("\n".to_owned()),
            tw_reuse: Ok("2\n".to_owned()),
            timestamps: Ok("1\n".to_owned()),
            step_width: Ok("0\n".to_owned()),
            socket_range: Ok(true),
            socket_range_by_one: Some(true),
            listeners: Ok(BTreeSet::from([22, 443])),
            services: Ok("ssh 22/tcp\n".to_owned()),
            time_wait_buckets: Ok("262144\n".to_owned()),
            conntrack: limits::tests::conntrack(262_144, 17),
            others: Ok(Vec::new()),
            window: None,
        }
    }

    fn found(reading: &Reading, name: &str) -> Finding {
        findings(reading)
            .into_iter()
            .find(|finding| finding.name == name)
            .unwrap()
    }

    fn setting(text: &str) -> io::Result<String> {
        Ok(text.to_owned())
    }

    #[test]
    fn the_defaults_are_ok_and_nothing_of_this_is_required() {
        for finding in findings(&defaults()) {
            assert_eq!(finding.state, State::Ok, "{finding:?}");
            assert!(!finding.required, "{finding:?}");
        }
        assert_eq!(
            found(&defaults(), "range").value,
            "32768-60999: 28232 ports"
        );
        assert_eq!(
            found(&defaults(), "first_pass").value,
            "the 14116 even ports, then the odd ones"
        );
    }

    #[test]
    fn a_range_that_begins_with_an_odd_port_is_searched_odd_first() {
        let reading = Reading {
            range: setting("1025 1027"),
            ..defaults()
        };
        assert_eq!(
            found(&reading, "first_pass").value,
            "the 2 odd ports, then the even ones"
        );
    }

    #[test]
    fn an_odd_number_of_ports_is_noted() {
        let note = |text| {
            let reading = Reading {
                range: setting(text),
                ..defaults()
            };
            found(&reading, "range").note
        };
        assert!(
            note("1024 1026")
                .unwrap()
                .contains("leaves one of them out")
        );
        assert_eq!(note("1024 1025"), None);
        assert_eq!(note("1024 1024"), None);
    }

    #[test]
    fn a_window_is_tried_only_if_it_is_asked_for() {
        let names = |window| {
            let reading = Reading {
                window,
                ..defaults()
            };
            let names = findings(&reading).into_iter().map(|finding| finding.name);
            names.collect::<Vec<_>>()
        };
        let window = PortRange { low: 1, high: 2 };
        assert_eq!(names(Some(window)).last(), Some(&"window"));
        assert!(!names(None).contains(&"window"));
    }

    #[test]
    fn reserved_ports_count_where_they_lie_in_the_range() {
        for (text, within) in [
            ("\n", 0),
            ("8080,9000-9010", 0),
            ("32768\n", 1),
            ("1-32769,40000-40009,60999-65535", 2 + 10 + 1),
            ("0-65535", 28_232),
        ] {
            let reading = Reading {
                reserved: setting(text),
                ..defaults()
            };
            assert_eq!(found(&reading, "reserved").data, within, "{text}");
        }
    }

    #[test]
    fn a_setting_that_is_not_understood_is_unknown_and_no_panic() {
        for text in [
            "", "1", "2 1", "1 65536", "-1 5", "a b", "1 2 3", "9-8", "1,,2-",
        ] {
            let reading = Reading {
                range: setting(text),
                reserved: setting(text),
                tw_reuse: setting(text),
                step_width: setting(text),
                ..defaults()
            };
            assert_eq!(
                found(&reading, "first_pass").state,
                found(&reading, "range").state
            );
            findings(&reading);
        }
        let broken = Reading {
            range: setting("2 1"),
            ..defaults()
        };
        let range = found(&broken, "range");
        assert_eq!(range.state, State::Unknown);
        assert!(range.note.unwrap().contains("ip_local_port_range"));
    }

    #[test]
    fn time_wait_reuse_takes_timestamps() {
        let reading = |mode, timestamps| Reading {
            tw_reuse: setting(mode),
            timestamps: setting(timestamps),
            ..defaults()
        };
        let state = |mode, timestamps| found(&reading(mode, timestamps), "tw_reuse").state;
        assert_eq!(state("1", "0"), State::Limited);
        assert_eq!(state("0", "0"), State::Ok);
        assert_eq!(state("1", "1"), State::Ok);
    }

    #[test]
    fn what_an_older_kernel_lacks_is_missing_with_the_version_that_has_it() {
        let reading = Reading {
            step_width: Err(io::ErrorKind::NotFound.into()),
            socket_range: Ok(false),
            socket_range_by_one: Some(false),
            ..defaults()
        };
        for (name, since) in [
            ("step_width", "7.1"),
            ("socket_range", "6.3"),
            ("socket_range_step", "6.8"),
        ] {
            let finding = found(&reading, name);
            assert_eq!(finding.state, State::Missing, "{name}");
            assert_eq!(finding.since, Some(since), "{name}");
            assert!(finding.remedy.is_some(), "{name}");
        }
    }

    #[test]
    fn the_step_of_a_sockets_range_is_known_only_by_btf() {
        let state = |by_one| {
            let reading = Reading {
                socket_range_by_one: by_one,
                ..defaults()
            };
            found(&reading, "socket_range_step").state
        };
        assert_eq!(state(Some(true)), State::Ok);
        assert_eq!(state(Some(false)), State::Limited);
        assert_eq!(state(None), State::Unknown);
    }
}
