//! Hosts, which may be names, with or without a port.

use std::net::{IpAddr, ToSocketAddrs as _};

use crate::term::printable::printable;

/// Parses a host with or without a port. An IPv6 address with a port stands in brackets.
pub(crate) fn and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err("a bracket is not closed".to_owned()),
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, rest))) => match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None => return Err(format!("{rest:?} follows the bracket")),
        },
        None => match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    if host.is_empty() {
        return Err("there is no address".to_owned());
    }
    Ok((host.to_owned(), port.map(number).transpose()?))
}

/// Parses the number of a port.
pub(crate) fn number(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
}

/// Returns the first address of a host.
///
/// # Errors
/// If the name is unknown.
pub(crate) fn address(host: &str) -> Result<IpAddr, String> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let found = (host, 0).to_socket_addrs();
    let host = printable(host);
    let found = found.map_err(|error| format!("{host}: {error}"))?;
    found
        .into_iter()
        .next()
        .map(|address| address.ip())
        .ok_or_else(|| format!("{host}: the name has no address"))
}
