//! The options of `connect-trace ports`.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

use crate::options::{Format, address::Address, host, values::number_of_groups};

const EXAMPLES: &str = "\
Examples:
  connect-trace ports                 the fullest routes of this host
  connect-trace ports 10.0.0.7:5432   routes to that destination
  connect-trace ports :443            routes to this port of any address
  connect-trace ports --netns 1234    routes in the network namespace of a process
  connect-trace ports 10.0.0.7:5432 --svg ports.svg
                                      draw the map of the ports";

/// `connect-trace ports`
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct PortsArgs {
    /// Destination: an address or a name, a port, or both [default: any]
    #[arg(value_name = "[DESTINATION][:PORT]", value_parser = destination)]
    pub destination: Option<Destination>,

    /// Source address [default: any]
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,

    /// Show up to NUMBER routes, those with the most ports in use first
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = number_of_groups)]
    pub top: usize,

    /// Look into the network namespace of this file or process
    #[arg(long, value_name = "PATH|PID", value_hint = clap::ValueHint::FilePath)]
    pub netns: Option<PathBuf>,

    /// Ask this service who holds ports in TIME_WAIT [default: 127.0.0.1:19435, if it answers]
    #[arg(long, value_name = "ADDRESS")]
    pub service: Option<Address>,

    /// Draw the map of the fullest route into an SVG file; - is stdout, without the text
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub svg: Option<PathBuf>,

    /// Print text for people, or JSON for programs (docs/ports.md lists the fields)
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
}

/// A host, which may be a name, a port, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address or name.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
}

fn destination(text: &str) -> Result<Destination, String> {
    let digits = text.strip_prefix(':').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Destination {
            host: None,
            port: Some(host::number(digits)?),
        });
    }
    let (host, port) = host::and_port(text)?;
    Ok(Destination {
        host: Some(host),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_an_address_or_a_port_or_both() {
        for (text, host, port) in [
            ("10.0.0.7:80", Some("10.0.0.7"), Some(80)),
            ("10.0.0.7", Some("10.0.0.7"), None),
            ("db.example:80", Some("db.example"), Some(80)),
            ("::1", Some("::1"), None),
            ("[::1]:80", Some("::1"), Some(80)),
            (":80", None, Some(80)),
            ("80", None, Some(80)),
        ] {
            let expected = Destination {
                host: host.map(str::to_owned),
                port,
            };
            assert_eq!(destination(text), Ok(expected), "{text}");
        }
        for wrong in ["", ":", "0", ":65536", "a:", "[::1]80", "a:b"] {
            assert!(destination(wrong).is_err(), "{wrong}");
        }
    }
}
