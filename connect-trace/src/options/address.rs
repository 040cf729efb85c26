//! Addresses of the service.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use crate::term::printable::printable;

/// An address of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the address of a service for which none is named.
    #[must_use]
    pub fn of_service() -> Self {
        Self::Tcp(([127, 0, 0, 1], 19_435).into())
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `ADDRESS:PORT` or `unix:/PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("the path of a Unix socket must begin with /".to_owned())
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("{text:?} is not an address such as 127.0.0.1:19435, [::]:19435 or unix:/run/connect-trace/http")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "http://{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", printable(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_tcp_or_a_path() {
        for right in ["127.0.0.1:19435", "[::1]:80", "0.0.0.0:1", "unix:/run/x"] {
            assert!(right.parse::<Address>().is_ok(), "{right}");
        }
        for wrong in ["", "19435", "localhost:1", "unix:x", "/run/x", "[::1]"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
