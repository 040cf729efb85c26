//! Ports of the range that servers use, or are expected to use: connect() can take such a port before its server starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::finding::{Finding, Group};
use crate::connect::PortRange;

/// The file with the names of services.
pub(super) const SERVICES: &str = "/etc/services";

/// Lowest port of the kernel's own range. Services above it are used to sharing their ports with clients.
const LOWEST_BY_DEFAULT: u16 = 32_768;

/// Number of ports that a finding names.
const SHOWN: usize = 5;

/// Returns the finding about sockets that listen on ports of the range, apart from reserved ones, which connect() never
/// takes.
pub(super) fn listeners(
    listeners: &io::Result<BTreeSet<u16>>,
    span: PortRange,
    reserved: &[PortRange],
) -> Finding {
    const NAME: &str = "listeners";
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(error) => {
            return Finding::unknown(
                Group::Ports,
                NAME,
                format!("the kernel does not list its sockets: {error}"),
                "use a kernel with tcp_diag (CONFIG_INET_TCP_DIAG)",
            );
        }
    };
    let within = free_for_all(listeners.range(span.low..=span.high).copied(), reserved);
    if within.is_empty() {
        return Finding::ok(
            Group::Ports,
            NAME,
            "none within the range that is not reserved",
        )
        .data(serde_json::json!(within));
    }
    let numbers: Vec<String> = within.iter().map(u16::to_string).collect();
    Finding::limited(
        Group::Ports,
        NAME,
        format!("within the range: {}", first_of(&numbers)),
        "when such a server restarts, a connection may have its port",
    )
    .remedy(reserve(&numbers))
    .data(serde_json::json!(within))
}

/// Returns the finding about well-known services within the range, apart from reserved ports.
pub(super) fn services(
    services: &io::Result<String>,
    span: PortRange,
    reserved: &[PortRange],
) -> Finding {
    const NAME: &str = "services";
    let names = match services {
        Ok(text) => names(text),
        Err(error) => {
            return Finding::unknown(
                Group::Ports,
                NAME,
                format!("{SERVICES} cannot be read: {error}"),
                "install the file, such as by the package netbase",
            );
        }
    };
    let all = names.range(span.low..=span.high).map(|(&port, _)| port);
    let within = free_for_all(all, reserved);
    let below: Vec<u16> = within
        .iter()
        .copied()
        .filter(|&port| port < LOWEST_BY_DEFAULT)
        .collect();
    let named = |ports: &[u16]| {
        let named = ports.iter().map(|port| format!("{port} {}", names[port]));
        first_of(&named.collect::<Vec<_>>())
    };
    let data: BTreeMap<u16, &str> = within.iter().map(|port| (*port, names[port])).collect();
    let finding = match (below.as_slice(), within.as_slice()) {
        ([], []) => Finding::ok(Group::Ports, NAME, "none within the range"),
        ([], within) => {
            let value = format!("within the range, as by default: {}", named(within));
            Finding::ok(Group::Ports, NAME, value)
        }
        (below, _) => {
            let numbers: Vec<String> = below.iter().map(u16::to_string).collect();
            Finding::limited(
                Group::Ports,
                NAME,
                format!("within the range: {}", named(below)),
                "a connection may have the port of such a service before it starts",
            )
            .remedy(match below.len() {
                0..=SHOWN => format!("for those that run here: {}", reserve(&numbers)),
                _ => format!(
                    "for those that run here: sysctl net.ipv4.ip_local_reserved_ports, or a range from {LOWEST_BY_DEFAULT} on"
                ),
            })
        }
    };
    finding.data(serde_json::json!(data))
}

/// Returns the ports that are not reserved.
fn free_for_all(ports: impl Iterator<Item = u16>, reserved: &[PortRange]) -> Vec<u16> {
    let is_reserved = |port| reserved.iter().any(|range| range.contains(port));
    ports.filter(|&port| !is_reserved(port)).collect()
}

/// Returns the first of these, and the number of the others.
fn first_of(names: &[String]) -> String {
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Returns the command that reserves ports.
fn reserve(numbers: &[String]) -> String {
    format!(
        "sysctl net.ipv4.ip_local_reserved_ports={}, in addition to those that it has",
        numbers.join(",")
    )
}

/// Returns the names of TCP services in a file such as /etc/services, by port.
fn names(text: &str) -> BTreeMap<u16, &str> {
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some(name), Some(port)) = (words.next(), words.next()) else {
            continue;
        };
        let port = port.strip_suffix("/tcp").and_then(|port| port.parse().ok());
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(port) = port.filter(|_| is_plain) {
            names.entry(port).or_insert(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    const FILE: &str = "# comment\nhttp\t80/tcp\twww\ntime 37/udp\npostgresql 5432/tcp postgres # x\n\
        broken\nbroken x/tcp\nfido 60179/tcp\nother 5432/tcp\n";

    fn span(low: u16, high: u16) -> PortRange {
        PortRange { low, high }
    }

    #[test]
    fn services_are_named_where_they_lie_in_the_range() {
        let found = |low, high, reserved: &[PortRange]| {
            services(&Ok(FILE.to_owned()), span(low, high), reserved)
        };
        let wide = found(1_024, 65_535, &[]);
        assert_eq!(wide.state, State::Limited);
        assert_eq!(wide.value, "within the range: 5432 postgresql");
        let remedy = wide.remedy.unwrap();
        assert!(remedy.contains("ip_local_reserved_ports=5432,"), "{remedy}");
        let expected = serde_json::json!({ "5432": "postgresql", "60179": "fido" });
        assert_eq!(wide.data, expected);
        let reserved = found(1_024, 65_535, &[span(5_000, 6_000)]);
        assert_eq!(reserved.state, State::Ok);
        assert_eq!(
            reserved.value,
            "within the range, as by default: 60179 fido"
        );
        assert_eq!(found(32_768, 60_000, &[]).value, "none within the range");
        let absent = services(&Err(io::ErrorKind::NotFound.into()), span(1, 2), &[]);
        assert_eq!(absent.state, State::Unknown);
    }

    #[test]
    fn a_listener_within_the_range_can_lose_its_port() {
        let ports = Ok(BTreeSet::from([80, 40_000, 40_001, 61_000]));
        let found = listeners(&ports, span(32_768, 60_999), &[span(40_001, 40_001)]);
        assert_eq!(
            (found.state, found.data),
            (State::Limited, serde_json::json!([40_000]))
        );
        let found = listeners(&ports, span(50_000, 60_999), &[]);
        assert_eq!(
            (found.state, found.data),
            (State::Ok, serde_json::json!([]))
        );
        let many = Ok((40_000..40_020).collect());
        let found = listeners(&many, span(32_768, 60_999), &[]);
        assert!(found.value.ends_with(", 40004 and 15 more"), "{found:?}");
        let refused = Err(io::ErrorKind::NotFound.into());
        assert_eq!(listeners(&refused, span(1, 2), &[]).state, State::Unknown);
    }
}
