//! The ports from which connect() chooses in the network namespace of this process.

use std::collections::BTreeSet;

use crate::{
    connect::{PortRange, settings::LocalPortSettings},
    sockets,
};

/// Numbers of ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPorts {
    /// Ports of net.ipv4.ip_local_port_range.
    pub range: u64,
    /// Ports of it that net.ipv4.ip_local_reserved_ports takes out.
    pub reserved: u64,
    /// Ports of it that sockets listen on; absent if the kernel does not tell.
    pub listening_in_range: Option<u64>,
}

impl LocalPorts {
    /// Reads them; `None` if the settings cannot be read.
    #[must_use]
    pub fn of_this_namespace() -> Option<Self> {
        let settings = LocalPortSettings::of_this_namespace();
        let settings = settings.inspect_err(|error| log::debug!("{error}")).ok()?;
        let listeners = sockets::listening_ports();
        let listeners = listeners.inspect_err(|error| log::debug!("sock_diag: {error}"));
        Some(Self::of(
            settings.range,
            &settings.reserved,
            listeners.ok().as_ref(),
        ))
    }

    fn of(range: PortRange, reserved: &[PortRange], listeners: Option<&BTreeSet<u16>>) -> Self {
        let is_reserved = |port| reserved.iter().any(|ports| ports.contains(port));
        Self {
            range: u64::from(range.high) - u64::from(range.low) + 1,
            reserved: (range.low..=range.high)
                .filter(|&port| is_reserved(port))
                .count() as u64,
            listening_in_range: listeners
                .map(|ports| ports.range(range.low..=range.high).count() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_and_listening_ports_count_within_the_range() {
        let ports = |low, high| PortRange { low, high };
        let listeners = BTreeSet::from([80, 20_000, 20_009, 20_010]);
        let reserved = [
            ports(1, 20_001),
            ports(20_001, 20_002),
            ports(20_009, 30_000),
        ];
        let found = LocalPorts::of(ports(20_000, 20_009), &reserved, Some(&listeners));
        let expected = LocalPorts {
            range: 10,
            reserved: 4,
            listening_in_range: Some(2),
        };
        assert_eq!(found, expected);
        assert_eq!(LocalPorts::of(ports(1, 65_535), &[], None).range, 65_535);
    }

    #[test]
    fn this_namespace_has_a_range() {
        let found = LocalPorts::of_this_namespace().unwrap();
        assert!(
            found.range > 0 && found.reserved <= found.range,
            "{found:?}"
        );
        assert!(found.listening_in_range.is_some());
    }
}
