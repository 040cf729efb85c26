//! The strategies for choosing a source port that a workload can use, and the system calls of each before connect().

use std::{fmt, io, net::IpAddr};

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::socket::{Socket, raw};
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
    /// `IP_LOCAL_PORT_RANGE` with this number of ports, at a random position in the range.
    Window(u16),
    /// `IP_LOCAL_PORT_RANGE` with all ports of the range.
    FullRange,
}

impl Strategy {
    /// Returns true if it sets `IP_LOCAL_PORT_RANGE`.
    #[must_use]
    pub fn needs_port_range(self) -> bool {
        matches!(self, Self::Window(_) | Self::FullRange)
    }

    /// Returns true if the kernel searches the whole range, so that the kernel decides the order of the ports.
    #[must_use]
    pub fn searches_all(self) -> bool {
        matches!(self, Self::Default | Self::Addresses | Self::FullRange)
    }

    /// Prepares a new socket for connect(). `source` is the address to bind, if any.
    ///
    /// # Errors
    /// If the kernel refuses a step.
    pub(super) fn prepare(
        self,
        socket: &Socket,
        source: Option<IpAddr>,
        range: PortRange,
        random: &mut Rng,
    ) -> io::Result<()> {
        match self {
            Self::Default => Ok(()),
            Self::Addresses => bind_address(socket, source),
            Self::SelectTestRepeat => {
                // Without SO_REUSEADDR, bind() refuses a port that has a connection to another destination.
                socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
                let any = socket.unspecified();
                let port = random.u16(range.low..=range.high);
                socket.bind(&raw(source.unwrap_or(any), port))
            }
            Self::Window(ports) => {
                let low = random.u16(range.low..=range.high - (ports - 1));
                socket.set_port_range(low, low + (ports - 1))?;
                bind_address(socket, source)
            }
            Self::FullRange => {
                socket.set_port_range(range.low, range.high)?;
                bind_address(socket, source)
            }
        }
    }

    /// Returns true if this errno says that a port was taken, so that another port may succeed.
    pub(super) fn tries_again(self, errno: i32) -> bool {
        self == Self::SelectTestRepeat && matches!(errno, libc::EADDRINUSE | libc::EADDRNOTAVAIL)
    }
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
            Self::Window(ports) => write!(f, "window-{ports}"),
            Self::FullRange => f.write_str("full-range"),
        }
    }
}
