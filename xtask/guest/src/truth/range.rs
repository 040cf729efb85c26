//! The range of ports from which connect() chooses: a setting of each network namespace.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};

const SETTING: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A range LO-HI, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    pub(super) fn new(low: u16, high: u16) -> Result<Self> {
        ensure!(low <= high, "the range of ports {low}-{high} is empty");
        Ok(Self { low, high })
    }

    pub(super) fn ports(self) -> usize {
        usize::from(self.high - self.low) + 1
    }

    pub(super) fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }

    /// Sets this range in the thread's network namespace.
    pub(super) fn set(self) -> Result<()> {
        fs::write(SETTING, format!("{} {}", self.low, self.high))
            .with_context(|| format!("writing the range {self} to {SETTING}"))
    }

    /// Fails unless the thread's network namespace has this range.
    pub(super) fn check(self) -> Result<()> {
        let text = fs::read_to_string(SETTING)
            .with_context(|| format!("reading the range in {SETTING}"))?;
        let current = text.split_whitespace().collect::<Vec<_>>().join("-");
        ensure!(
            current == self.to_string(),
            "the kernel's range of ports is {current} instead of {self}: set it in {SETTING}, or \
             give --set-range"
        );
        Ok(())
    }
}

impl Display for PortRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

impl FromStr for PortRange {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (low, high) = text
            .split_once('-')
            .with_context(|| format!("{text:?} is not of the form LO-HI"))?;
        let port = |text: &str| {
            text.parse()
                .with_context(|| format!("{text:?} is not a port number"))
        };
        Self::new(port(low)?, port(high)?)
    }
}
