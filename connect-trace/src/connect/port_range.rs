//! Ranges of ports, and the passes in which a port search goes through one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(from = "[u16; 2]", into = "[u16; 2]")]
pub struct PortRange {
    /// Lowest port.
    pub low: u16,
    /// Highest port.
    pub high: u16,
}

impl PortRange {
    /// Returns the number of ports in the range; 0 if the ends are swapped, which no kernel allows.
    #[must_use]
    pub fn ports(self) -> u32 {
        (u32::from(self.high) + 1).saturating_sub(self.low.into())
    }

    /// Returns this range of a network namespace, narrowed by a socket's own range as in `inet_sk_get_local_port_range`:
    /// an end that lies outside counts as not set.
    #[must_use]
    pub fn narrowed(self, own: Self) -> Self {
        let mut range = self;
        if range.contains(own.low) {
            range.low = own.low;
        }
        if range.contains(own.high) {
            range.high = own.high;
        }
        range
    }

    /// Returns whether the port is in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.low, self.high)
    }
}

impl FromStr for PortRange {
    type Err = String;

    /// Reads `LOW-HIGH`, or one port.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|&port| port > 0)
                .ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
        };
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (port(low)?, port(high)?);
        if low > high {
            return Err(format!("{low} is above {high}"));
        }
        Ok(Self { low, high })
    }
}

impl From<[u16; 2]> for PortRange {
    fn from([low, high]: [u16; 2]) -> Self {
        Self { low, high }
    }
}

impl From<PortRange> for [u16; 2] {
    fn from(range: PortRange) -> Self {
        [range.low, range.high]
    }
}

/// The ports that a search goes through, and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SearchRange {
    /// The ports.
    pub ports: PortRange,
    /// True if the ports of one parity are tried before the others. Since Linux 6.8 this is false with
    /// `IP_LOCAL_PORT_RANGE`.
    pub by_parity: bool,
}

impl SearchRange {
    /// Returns the pass of a search that tries a port of the range; the parity alone decides.
    #[must_use]
    pub fn pass(self, port: u16) -> Pass {
        match (self.by_parity, port % 2 == self.ports.low % 2) {
            (false, _) => Pass::Only,
            (true, true) => Pass::First,
            (true, false) => Pass::Second,
        }
    }
}

impl fmt::Display for SearchRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ports.fmt(formatter)
    }
}

/// A pass of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The ports with the parity of the range's lowest port.
    First,
    /// The other ports, tried when the first pass found none.
    Second,
    /// All ports in one pass.
    Only,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_has_both_ends() {
        let range = |low, high| Ok(PortRange { low, high });
        assert_eq!("8000-8999".parse(), range(8_000, 8_999));
        assert_eq!("443".parse(), range(443, 443));
        assert_eq!("20-22".parse::<PortRange>().unwrap().ports(), 3);
        for wrong in ["", "0", "65536", "9-8", "1-", "-1", "-", "1-2-3", "http"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
