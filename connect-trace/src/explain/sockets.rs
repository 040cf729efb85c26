//! The TCP sockets of this network namespace, from `/proc/net/tcp` and `/proc/net/tcp6`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};

const FILES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// States of linux/tcp_states.h.
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;

/// The timer of a connection in TIME_WAIT.
const TIME_WAIT_TIMER: u8 = 3;

/// `TCP_TIMEWAIT_LEN` of net/tcp.h.
const TIME_WAIT_LENGTH: Duration = Duration::from_secs(60);

/// Unit of the timers in the files: `USER_HZ` is 100 on all architectures that have BPF.
const TICK: Duration = Duration::from_millis(10);

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) kind: Kind,
}

/// Differences between sockets that matter to a port search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Listener,
    Connection,
    /// A connection that ended this long ago.
    TimeWait(Duration),
}

/// Reads the sockets.
///
/// # Errors
/// If a file cannot be read or understood. A kernel without IPv6 has no `tcp6`.
pub(super) fn of_this_namespace() -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for path in FILES {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != FILES[0] => continue,
            text => text.with_context(|| format!("{path} cannot be read; mount /proc"))?,
        };
        for line in text.lines().skip(1) {
            let socket = parse(line);
            sockets.push(socket.with_context(|| format!("{path} is not understood: {line:?}"))?);
        }
    }
    Ok(sockets)
}

/// Parses a line: `sl: local remote state tx:rx timer:ticks …`.
fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (timer, ticks) = words.nth(1)?.split_once(':')?;
    let timer = u8::from_str_radix(timer, 16).ok()?;
    let kind = match (state, timer) {
        (LISTEN, _) => Kind::Listener,
        (TIME_WAIT, TIME_WAIT_TIMER) => {
            let left = TICK * u32::from_str_radix(ticks, 16).ok()?;
            Kind::TimeWait(TIME_WAIT_LENGTH.saturating_sub(left))
        }
        // Includes FIN_WAIT2 without a process, whose timer is the same.
        _ => Kind::Connection,
    };
    Some(Socket {
        local,
        remote,
        kind,
    })
}

/// Parses an address as the kernel prints it: words in the order of the host's bytes, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| -> Option<[u8; 4]> {
        let word = words.get(at * 8..(at + 1) * 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let ip = match words.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: [[u8; 4]; 4] = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = bytes.concat().try_into().ok()?;
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    // An IPv4 connection of an IPv6 socket has the same addresses as any other.
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_each_kind_are_understood() {
        let rest = "00000000     0        0 1 1 0000000000000000 100 0 0 10 0";
        let found = |state: &str, timer: &str| {
            let line = format!(
                "   0: 0100007F:1F90 0200007F:0050 {state} 00000000:00000000 {timer} {rest}"
            );
            let socket = parse(&line).unwrap();
            assert_eq!(socket.local, "127.0.0.1:8080".parse().unwrap());
            assert_eq!(socket.remote, "127.0.0.2:80".parse().unwrap());
            socket.kind
        };
        assert_eq!(found("0A", "00:00000000"), Kind::Listener);
        assert_eq!(found("01", "00:00000000"), Kind::Connection);
        assert_eq!(found("05", "03:00000100"), Kind::Connection);
        let ended = Duration::from_secs(60) - Duration::from_millis(2_560);
        assert_eq!(found("06", "03:00000100"), Kind::TimeWait(ended));
        assert_eq!(found("06", "03:FFFFFFFF"), Kind::TimeWait(Duration::ZERO));
        for wrong in [
            "",
            "0: 0100007F:1F90",
            "0: 0100007F 0200007F:0050 0A 0:0 0:0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_ipv4_connection_of_an_ipv6_socket_has_its_ipv4_address() {
        let address = |text| address(text).unwrap().to_string();
        assert_eq!(
            address("0000000000000000FFFF00000100007F:0050"),
            "127.0.0.1:80"
        );
        assert_eq!(address("00000000000000000000000001000000:0050"), "[::1]:80");
    }

    #[test]
    fn the_sockets_of_this_process_are_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = TcpStream::connect(to).unwrap();
        let from = stream.local_addr().unwrap();
        let sockets = of_this_namespace().unwrap();
        let kind = |local, remote: Option<SocketAddr>| {
            let mut found = sockets.iter().filter(|socket| socket.local == local);
            found
                .find(|socket| remote.is_none_or(|remote| remote == socket.remote))
                .map(|socket| socket.kind)
        };
        assert_eq!(
            kind(to, Some("0.0.0.0:0".parse().unwrap())),
            Some(Kind::Listener)
        );
        assert_eq!(kind(from, Some(to)), Some(Kind::Connection));
    }
}
