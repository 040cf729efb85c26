//! The strategies for choosing a source port that a workload can use, and the system calls of each before connect().

use std::{fmt, io, net::IpAddr};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{
    cursor::Cursor,
    plan::Protocol,
    socket::{Socket, raw},
};
use crate::connect::PortRange;

/// A strategy for choosing source ports.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash, Serialize)]
pub enum Strategy {
    /// No socket option: the kernel chooses address and port.
    Default,
    /// Two or more source addresses, one after the other; the kernel chooses the port.
    Addresses,
    /// Binds a random port of the range, and another one if it is taken.
    SelectTestRepeat,
    /// Binds the next port of a shuffled list of the range, and the next again if it is taken.
    Cursor,
    /// `IP_LOCAL_PORT_RANGE` with this number of ports, at a random position in the range.
    Window(u16),
    /// One of the windows side by side, and if it has no free port, others, each twice as wide, up to the whole range.
    WindowRetry(u16),
    /// The same, but the first window is the next of a shuffled list.
    WindowCursor(u16),
    /// `IP_LOCAL_PORT_RANGE` with all ports of the range.
    FullRange,
    /// No socket option: the kernel searches by random steps of up to this number, or twice it, of ports
    /// (net.ipv4.ip_local_port_step_width of the private namespace).
    StepWidth(u16),
}

/// The choices from which a strategy takes the ports of a connection.
pub(super) struct Ports<'a> {
    /// Protocol of the socket.
    pub(super) protocol: Protocol,
    /// The network namespace's range of ports.
    pub(super) range: PortRange,
    /// Source address to bind, if any.
    pub(super) source: Option<IpAddr>,
    /// The list that [`Strategy::cursor_ports`] fills.
    pub(super) cursor: &'a Cursor,
    /// Random choices of this connection.
    pub(super) random: Rng,
}

impl Strategy {
    /// Returns true if it sets `IP_LOCAL_PORT_RANGE`.
    #[must_use]
    pub fn needs_port_range(self) -> bool {
        self.window().is_some() || self == Self::FullRange
    }

    /// Returns the setting of net.ipv4.ip_local_port_step_width that it needs, if it needs one.
    #[must_use]
    pub fn step_width(self) -> Option<u16> {
        match self {
            Self::StepWidth(width) => Some(width),
            _ => None,
        }
    }

    /// Returns the number of ports of its windows, if it has windows.
    #[must_use]
    pub fn window(self) -> Option<u16> {
        match self {
            Self::Window(ports) | Self::WindowRetry(ports) | Self::WindowCursor(ports) => {
                Some(ports)
            }
            _ => None,
        }
    }

    /// Returns true if the kernel searches the whole range, so that the kernel decides the order of the ports.
    #[must_use]
    pub fn searches_all(self) -> bool {
        matches!(
            self,
            Self::Default | Self::Addresses | Self::FullRange | Self::StepWidth(_)
        )
    }

    /// Returns true if it binds ports itself, together with an address.
    #[must_use]
    pub fn binds_ports(self) -> bool {
        matches!(self, Self::SelectTestRepeat | Self::Cursor)
    }

    /// Returns true if it may try more than one port or window for a connection.
    #[must_use]
    pub fn repeats(self) -> bool {
        self.binds_ports() || matches!(self, Self::WindowRetry(_) | Self::WindowCursor(_))
    }

    /// Returns the ports that its cursor goes round: all that may be bound, or the lowest of each window. Empty if it has
    /// no cursor.
    pub(super) fn cursor_ports(
        self,
        range: PortRange,
        is_reserved: impl Fn(u16) -> bool,
    ) -> Vec<u16> {
        let all = range.low..=range.high;
        match self {
            Self::Cursor => all.filter(|&port| !is_reserved(port)).collect(),
            Self::WindowCursor(ports) => all.step_by(usize::from(ports)).collect(),
            _ => Vec::new(),
        }
    }

    /// Prepares a socket for connect(), after `failed` tries for the same connection. The socket is a new one unless the
    /// strategy [keeps](Self::keeps_socket) it.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub(super) fn prepare(
        self,
        socket: &Socket,
        ports: &mut Ports<'_>,
        failed: u32,
    ) -> io::Result<()> {
        let range = ports.range;
        match self {
            Self::Default => return Ok(()),
            Self::Addresses | Self::StepWidth(_) => {}
            Self::SelectTestRepeat => {
                let port = ports.random.u16(range.low..=range.high);
                return bind_port(socket, ports, port);
            }
            Self::Cursor => {
                let Some(port) = ports.cursor.next(failed) else {
                    return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
                };
                return bind_port(socket, ports, port);
            }
            Self::Window(width) => {
                let low = ports.random.u16(range.low..=range.high - (width - 1));
                socket.set_port_range(low, low + (width - 1))?;
            }
            Self::WindowRetry(width) | Self::WindowCursor(width) => {
                let first = match self {
                    Self::WindowCursor(_) if failed == 0 => ports.cursor.next(0),
                    _ => None,
                };
                let window = window(width, failed, range, first, &mut ports.random);
                socket.set_port_range(window.low, window.high)?;
            }
            Self::FullRange => socket.set_port_range(range.low, range.high)?,
        }
        if failed == 0 {
            bind_address(socket, ports.source)?;
        }
        Ok(())
    }

    /// Returns true if another try may succeed: `errno` says that a port or all ports of a window were taken, after
    /// `failed` earlier tries.
    pub(super) fn tries_again(self, errno: i32, failed: u32, range: PortRange) -> bool {
        let is_taken = match errno {
            libc::EADDRINUSE | libc::EADDRNOTAVAIL => true,
            // connect() of a UDP socket that finds no port.
            libc::EAGAIN => self.window().is_some(),
            _ => false,
        };
        is_taken
            && match self {
                Self::SelectTestRepeat | Self::Cursor => true,
                Self::WindowRetry(width) | Self::WindowCursor(width) => {
                    u32::from(widened(width, failed, range)) < range.ports()
                }
                _ => false,
            }
    }

    /// Returns true if a socket whose connect() found no port serves for the next try. One that is bound to a port stays
    /// bound to it.
    pub(super) fn keeps_socket(self) -> bool {
        !self.binds_ports()
    }
}

/// Returns the window of a try after `failed` others: one of those that lie side by side in the range, at random or the one
/// that begins with `first`. Each is twice as wide as the one before; the last is the whole range.
pub(crate) fn window(
    width: u16,
    failed: u32,
    range: PortRange,
    first: Option<u16>,
    random: &mut Rng,
) -> PortRange {
    // Windows at any position would overlap in the middle of the range, and fill it up before its ends.
    let width = widened(width, failed, range);
    let side_by_side = range.ports().div_ceil(width.into()) as u16;
    let low = first.unwrap_or_else(|| range.low + width * random.u16(..side_by_side));
    let high = low.saturating_add(width - 1).min(range.high);
    // Linux before 6.8 goes through the ports of the lowest one's parity first: let both parities fill up alike.
    let parity = u16::from(u32::from(width) < range.ports() && random.bool());
    PortRange {
        low: (low + parity).min(high),
        high,
    }
}

/// Returns the number of ports of a window that is twice as wide for each failed try, up to the whole range.
fn widened(width: u16, failed: u32, range: PortRange) -> u16 {
    let wide = u64::from(width) << failed.min(16);
    // A range has at most 65,535 ports.
    wide.min(range.ports().into()) as u16
}

/// Binds the port, together with the address, if any.
fn bind_port(socket: &Socket, ports: &Ports<'_>, port: u16) -> io::Result<()> {
    // Without SO_REUSEADDR, bind() refuses a port that has a connection to another destination. With it, two sockets of
    // UDP would share the port.
    if ports.protocol == Protocol::Tcp {
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    socket.bind(&raw(ports.source.unwrap_or(socket.unspecified()), port))
}

/// Binds the address and leaves the port to connect().
fn bind_address(socket: &Socket, source: Option<IpAddr>) -> io::Result<()> {
    let Some(source) = source else {
        return Ok(());
    };
    socket.set(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&raw(source, 0))
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Addresses => f.write_str("addresses"),
            Self::SelectTestRepeat => f.write_str("select-test-repeat"),
            Self::Cursor => f.write_str("cursor"),
            Self::Window(ports) => write!(f, "window-{ports}"),
            Self::WindowRetry(ports) => write!(f, "window-retry-{ports}"),
            Self::WindowCursor(ports) => write!(f, "window-cursor-{ports}"),
            Self::FullRange => f.write_str("full-range"),
            Self::StepWidth(width) => write!(f, "step-width-{width}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange {
        low: 20_000,
        high: 20_999,
    };

    #[test]
    fn windows_become_wider_until_they_are_the_whole_range_and_then_there_is_no_other_try() {
        let strategy = Strategy::WindowRetry(100);
        let widths = [100, 200, 400, 800, 1000, 1000];
        for (failed, width) in (0..).zip(widths) {
            assert_eq!(widened(100, failed, RANGE), width);
            let again = strategy.tries_again(libc::EADDRNOTAVAIL, failed, RANGE);
            assert_eq!(again, width < 1000, "{failed}");
        }
        assert_eq!(widened(500, u32::MAX, RANGE), 1000);
        assert!(!strategy.tries_again(libc::ECONNREFUSED, 0, RANGE));
        assert!(!Strategy::Window(100).tries_again(libc::EADDRNOTAVAIL, 0, RANGE));
    }

    #[test]
    fn a_cursor_has_all_ports_that_are_not_reserved_or_windows_side_by_side() {
        let ports = Strategy::Cursor.cursor_ports(RANGE, |port| port < 20_900);
        assert_eq!(ports, (20_900..=20_999).collect::<Vec<_>>());
        let windows = Strategy::WindowCursor(400).cursor_ports(RANGE, |_| true);
        assert_eq!(windows, [20_000, 20_400, 20_800]);
        assert!(
            Strategy::WindowRetry(400)
                .cursor_ports(RANGE, |_| false)
                .is_empty()
        );
    }
}
