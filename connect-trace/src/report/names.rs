//! Names of the kinds of connections, in text and JSON alike.

use crate::connect::Outcome;
use crate::term::errno;
use crate::{
    connect::{CallKind, Family, Pass, PortChoice, SourcePort},
    stats::{Key, by::By, key::PortChoiceKey},
};

pub(super) fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
        Family::Mapped => "v4-mapped",
    }
}

pub(super) fn pass(pass: Pass) -> &'static str {
    match pass {
        Pass::First => "first",
        Pass::Second => "second",
        Pass::Only => "single",
    }
}

pub(super) fn port_origin(port: SourcePort) -> &'static str {
    match port {
        SourcePort::None => "none",
        SourcePort::Bound(_) => "bind",
        SourcePort::Searched(_) => "search",
    }
}

/// Returns protocol and operation.
pub(super) fn kind(kind: CallKind) -> String {
    format!("{} {}", kind.protocol.name(), kind.operation.name())
}

/// Returns the value of `--by`.
pub(super) fn by(by: By) -> &'static str {
    match by {
        By::Parity => "parity",
        By::Pass => "pass",
        By::Errno => "errno",
        By::Destination => "destination",
        By::Source => "source",
        By::Pid => "pid",
        By::Comm => "comm",
        By::Uid => "uid",
        By::Cgroup => "cgroup",
        By::Pod => "pod",
        By::Netns => "netns",
        By::Protocol => "protocol",
        By::Family => "family",
        By::Strategy => "strategy",
    }
}

/// Returns the key of a group, in printable characters only.
pub(super) fn key(key: Key) -> String {
    let none = || "none".to_owned();
    match key {
        Key::Parity(Outcome::Even) => "even".to_owned(),
        Key::Parity(Outcome::Odd) => "odd".to_owned(),
        Key::Parity(Outcome::Bound) => "bound".to_owned(),
        Key::Parity(Outcome::Failed) => "failed".to_owned(),
        Key::Pass(found) => found.map_or_else(none, |found| pass(found).to_owned()),
        Key::Errno(0) => "ok".to_owned(),
        Key::Errno(errno) => errno::name(errno),
        Key::Destination(destination) => destination.map_or_else(none, |to| to.to_string()),
        Key::Source(source) => source.map_or_else(none, |from| from.to_string()),
        Key::Pid(id) | Key::Uid(id) => id.to_string(),
        Key::Comm(comm) => comm.to_string(),
        Key::Cgroup(id) => id.to_string(),
        Key::Pod(pod) => pod.map_or_else(none, |pod| pod.to_string()),
        Key::Netns(inode) => inode.map_or_else(none, |inode| inode.to_string()),
        Key::Kind(of_call) => kind(of_call),
        Key::Family(of_socket) => family(of_socket).to_owned(),
        Key::PortChoice(chosen) => chosen.map_or_else(none, choice),
    }
}

/// Returns the name of a port choice; a socket's own range has its width.
pub(super) fn choice(choice: PortChoiceKey) -> String {
    match choice.port_choice {
        PortChoice::Range => {
            let address = if choice.address_bound { "+address" } else { "" };
            format!("range of {}{address}", choice.width)
        }
        strategy => strategy.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::{
        connect::{Comm, Connect},
        fixtures::connect_from,
    };

    #[test]
    fn every_way_to_split_has_a_name_and_keys_with_names() {
        let connect = Connect {
            comm: Comm::of("a\x1b"),
            ..connect_from(20_001)
        };
        let expected = [
            ("parity", "odd"),
            ("pass", "second"),
            ("errno", "ok"),
            ("destination", "127.0.0.1:443"),
            ("source", "127.0.0.1"),
            ("pid", "1"),
            ("comm", "a\\x1b"),
            ("uid", "0"),
            ("cgroup", "1"),
            ("pod", "none"),
            ("netns", "4026531840"),
            ("protocol", "tcp connect"),
            ("family", "IPv4"),
            ("strategy", "default"),
        ];
        let found: Vec<_> = By::value_variants()
            .iter()
            .map(|&of| (by(of), key(Key::of(&connect, of))))
            .collect();
        for ((of, key), (expected, expected_key)) in found.iter().zip(expected) {
            assert_eq!((*of, key.as_str()), (expected, expected_key));
            let typed = By::from_str(of, false);
            assert!(typed.is_ok(), "--by {of} is not what is typed");
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn ranges_that_are_as_wide_are_one_group_wherever_they_are() {
        let of = |low, address_bound| {
            let connect = Connect {
                port_choice: Some(PortChoice::Range),
                address_bound: Some(address_bound),
                range: Some(crate::connect::SearchRange {
                    ports: crate::connect::PortRange {
                        low,
                        high: low + 499,
                    },
                    by_parity: false,
                }),
                ..connect_from(20_001)
            };
            Key::of(&connect, By::Strategy)
        };
        assert_eq!(of(20_000, false), of(31_007, false));
        assert_eq!(key(of(20_000, false)), "range of 500");
        assert_eq!(key(of(20_000, true)), "range of 500+address");
    }

    #[test]
    fn what_a_failed_connect_has_not_got_is_none() {
        let connect = Connect {
            errno: libc::ENETUNREACH,
            port: SourcePort::None,
            source: None,
            destination: None,
            netns: None,
            range: None,
            port_choice: None,
            ..connect_from(0)
        };
        for by in [
            By::Destination,
            By::Source,
            By::Netns,
            By::Pass,
            By::Strategy,
        ] {
            assert_eq!(key(Key::of(&connect, by)), "none", "{by:?}");
        }
        assert_eq!(key(Key::of(&connect, By::Parity)), "failed");
        assert_eq!(key(Key::of(&connect, By::Errno)), "ENETUNREACH");
    }
}
