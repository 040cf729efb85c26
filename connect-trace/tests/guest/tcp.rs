//! The kernel's own TCP counters, in the network namespace of the tests.

use std::fs;

use anyhow::{Context as _, Result};

const COUNTERS: &str = "/proc/net/snmp";
const SOCKETS: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// `TCP_SYN_SENT` and `TCP_SYN_RECV`, as printed in the lists of sockets.
const HANDSHAKE: [&str; 2] = ["02", "03"];

/// Counters since the kernel booted.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Connections whose first SYN was sent.
    pub active_opens: u64,
    /// Connections that ended before their handshake did, on either side.
    pub attempt_fails: u64,
}

impl Counters {
    /// Reads the counters.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(COUNTERS).context(COUNTERS)?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let names = lines.next().unwrap_or_default().split_whitespace();
        let values = lines.next().unwrap_or_default().split_whitespace();
        let columns: Vec<_> = names.zip(values).collect();
        let value = |name: &str| -> Result<u64> {
            let column = columns.iter().find(|column| column.0 == name);
            let (_, value) = column.with_context(|| format!("{COUNTERS} has no {name}"))?;
            Ok(value.parse()?)
        };
        Ok(Self {
            active_opens: value("ActiveOpens")?,
            attempt_fails: value("AttemptFails")?,
        })
    }

    /// Returns the counts since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            active_opens: self.active_opens - before.active_opens,
            attempt_fails: self.attempt_fails - before.attempt_fails,
        }
    }
}

/// Returns true if the handshake of any connection is under way.
pub fn handshakes_are_under_way() -> Result<bool> {
    for path in SOCKETS {
        let text = fs::read_to_string(path).context(path)?;
        let mut states = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        if states.any(|state| HANDSHAKE.contains(&state)) {
            return Ok(true);
        }
    }
    Ok(false)
}
