//! The options of `connect-trace explain`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use crate::{
    connect::PortRange,
    options::{Format, host},
};

/// The port of a destination that has none.
const DEFAULT_PORT: u16 = 443;

const EXAMPLES: &str = "\
Examples:
  connect-trace explain 10.0.0.7:5432   the search for that destination, now
  connect-trace explain 10.0.0.7:5432 --start 40000
                                        step by step from port 40000
  connect-trace explain db.example:5432 --local-range 32768-60999
                                        for a socket with this IP_LOCAL_PORT_RANGE
  connect-trace explain 10.0.0.7:5432 --svg search.svg
                                        draw it";

/// `connect-trace explain`
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArgs {
    /// Address or name to connect to [default port: 443]
    #[arg(value_name = "DESTINATION[:PORT]", value_parser = destination)]
    pub destination: Destination,

    /// Source address [default: the address of the route to the destination]
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,

    /// Search for a socket with this IP_LOCAL_PORT_RANGE
    #[arg(long, value_name = "LOW-HIGH")]
    pub local_range: Option<PortRange>,

    /// Show the search that starts at this port, or at the port below it if no search starts there [default: a start
    /// with the median length; the kernel keeps the real one secret]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub start: Option<u16>,

    /// Draw the search into an SVG file; - is stdout, without the text
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub svg: Option<PathBuf>,

    /// Print text for people, or JSON for programs (docs/explain.md lists the fields)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// A host, which may be a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    host: String,
    port: u16,
}

impl Destination {
    /// Returns the first address of the host.
    ///
    /// # Errors
    /// If the name is unknown.
    pub(super) fn address(&self) -> Result<SocketAddr, String> {
        Ok(SocketAddr::new(host::address(&self.host)?, self.port))
    }
}

/// Parses a host with or without a port.
fn destination(text: &str) -> Result<Destination, String> {
    let (host, port) = host::and_port(text)?;
    Ok(Destination {
        host,
        port: port.unwrap_or(DEFAULT_PORT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_a_port_or_the_default_one() {
        for (text, host, port) in [
            ("10.0.0.7", "10.0.0.7", 443),
            ("10.0.0.7:80", "10.0.0.7", 80),
            ("db.example:5432", "db.example", 5432),
            ("::1", "::1", 443),
            ("[::1]", "::1", 443),
            ("[::1]:8080", "::1", 8080),
        ] {
            let expected = Destination {
                host: host.to_owned(),
                port,
            };
            assert_eq!(destination(text), Ok(expected), "{text}");
        }
        for wrong in [
            "", ":80", "a:", "a:0", "a:65536", "a:b", "[::1", "[::1]80", "[]",
        ] {
            assert!(destination(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_needs_no_resolver() {
        let address = |text| destination(text).unwrap().address();
        assert_eq!(address("10.0.0.7:80"), Ok(([10, 0, 0, 7], 80).into()));
        assert_eq!(address("::1"), Ok("[::1]:443".parse().unwrap()));
    }
}
