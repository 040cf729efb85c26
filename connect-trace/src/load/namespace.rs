//! A private network namespace for the process: it has a loopback, a range of ports, and nothing else. It is
//! made as root, or in a user namespace if the kernel lets any user make one.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, anyhow};

use super::{plan::Protocol, socket::Socket};
use crate::connect::PortRange;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
pub(super) const STEP_WIDTH: &str = "/proc/sys/net/ipv4/ip_local_port_step_width";
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const FIRST_UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
const BACKLOG: &str = "/proc/sys/net/core/somaxconn";

/// `in6_ifreq` of linux/ipv6.h, which the libc crate lacks for glibc.
#[repr(C)]
struct Ifreq6 {
    address: libc::in6_addr,
    prefix_length: u32,
    index: libc::c_int,
}

/// Moves this process, which must have a single thread, to a private network namespace.
///
/// # Errors
/// If the kernel does not allow this process to create one.
pub fn enter() -> Result<()> {
    // SAFETY: the call takes no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        enter_as_user()?;
    }
    raise_loopback().context(
        "cannot raise the loopback of a private network namespace (a security module may forbid it, such \
         as kernel.apparmor_restrict_unprivileged_userns): run it as root",
    )
}

/// Enters a network namespace together with a user namespace in which this user is root.
fn enter_as_user() -> Result<()> {
    // SAFETY: these calls take no arguments and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: the call takes no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
        let error = io::Error::last_os_error();
        return Err(anyhow!(
            "the kernel does not allow this process to create a network namespace ({error}): run it as root, or \
             allow user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone, a container's \
             seccomp profile), or use the host's own network with --target"
        ));
    }
    let map = |file: &str, text: String| {
        fs::write(file, &text).with_context(|| format!("cannot write {text:?} to {file}"))
    };
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("0 {uid} 1"))?;
    map("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn raise_loopback() -> Result<()> {
    let socket = Socket::open(Protocol::Udp, false)?.into_inner();
    // SAFETY: all fields of an ifreq are plain numbers, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is an ifreq, which is what SIOCSIFFLAGS reads, and outlives the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("SIOCSIFFLAGS");
    }
    Ok(())
}

/// Sets the range of ports of this network namespace.
///
/// # Errors
/// If a file cannot be written, as in a container whose `/proc/sys` is read-only.
pub(super) fn set_port_range(range: PortRange) -> Result<()> {
    if range.low < 1024 {
        // The kernel refuses a range that begins among the privileged ports.
        write(FIRST_UNPRIVILEGED, range.low.to_string())?;
    }
    write(PORT_RANGE, format!("{} {}", range.low, range.high))
}

/// Sets the longest step of searches in this network namespace.
///
/// # Errors
/// As for [`set_port_range`].
pub(super) fn set_step_width(width: u16) -> Result<()> {
    write(STEP_WIDTH, width.to_string())
}

fn write(file: &str, text: String) -> Result<()> {
    fs::write(file, &text).with_context(|| {
        format!(
            "cannot write {text:?} to {file} of a private network namespace; in a container, /proc/sys must be writable"
        )
    })
}

/// Returns the range of ports of this network namespace.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn port_range() -> Result<PortRange> {
    let text =
        fs::read_to_string(PORT_RANGE).with_context(|| format!("cannot read {PORT_RANGE}"))?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low <= high => Ok(PortRange { low, high }),
        _ => Err(anyhow!("{PORT_RANGE} does not hold a range: {text:?}")),
    }
}

/// Returns the ports that the kernel never gives out (`net.ipv4.ip_local_reserved_ports`).
pub(super) fn reserved_ports() -> Vec<RangeInclusive<u16>> {
    reserved_in(&fs::read_to_string(RESERVED_PORTS).unwrap_or_default())
}

/// Number of ports of the range that the kernel never gives out.
pub(super) fn reserved_within(range: PortRange) -> u32 {
    within(&reserved_ports(), range)
}

fn reserved_in(list: &str) -> Vec<RangeInclusive<u16>> {
    let spans = list.trim().split(',').filter_map(|span| {
        let (low, high) = span.split_once('-').unwrap_or((span, span));
        Some(low.parse().ok()?..=high.parse().ok()?)
    });
    spans.collect()
}

fn within(reserved: &[RangeInclusive<u16>], range: PortRange) -> u32 {
    let spans = reserved.iter();
    spans
        .map(|span| {
            (
                (*span.start()).max(range.low),
                (*span.end()).min(range.high),
            )
        })
        .filter(|(low, high)| low <= high)
        .map(|(low, high)| u32::from(high - low) + 1)
        .sum()
}

/// Maximum length of a listener's queue of connections that are not accepted yet (`net.core.somaxconn`). A
/// user namespace of an older kernel does not show it; the default is 4096 from Linux 5.4 on.
pub(super) fn longest_backlog() -> u32 {
    let text = fs::read_to_string(BACKLOG).unwrap_or_default();
    text.trim().parse().unwrap_or(4096)
}

/// Returns `count` source addresses of the loopback.
pub(super) fn addresses(count: u32, v6: bool) -> Vec<IpAddr> {
    (1..=count)
        .map(|number| -> IpAddr {
            if v6 {
                let first = u128::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0));
                Ipv6Addr::from(first + u128::from(number)).into()
            } else {
                Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + number).into()
            }
        })
        .collect()
}

/// Gives the loopback the addresses that it lacks; it always has all of 127.0.0.0/8.
///
/// # Errors
/// If the kernel refuses an address.
pub(super) fn add_addresses(addresses: &[IpAddr]) -> Result<()> {
    for address in addresses {
        if let IpAddr::V6(address) = address
            && !address.is_loopback()
        {
            add_v6(*address).with_context(|| format!("cannot add {address} to the loopback"))?;
        }
    }
    Ok(())
}

fn add_v6(address: Ipv6Addr) -> io::Result<()> {
    let socket = Socket::open(Protocol::Udp, true)?.into_inner();
    let request = Ifreq6 {
        address: libc::in6_addr {
            s6_addr: address.octets(),
        },
        prefix_length: 128,
        // The loopback is the first interface of every namespace.
        index: 1,
    };
    // SAFETY: the request is an in6_ifreq, which is what SIOCSIFADDR reads on an IPv6 socket, and outlives the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFADDR as libc::Ioctl,
            &raw const request,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Returns a counter of `TcpExt` of this network namespace from `/proc/net/netstat`; `None` if the kernel has
/// no such counter.
pub(super) fn tcp_counter(name: &str) -> Option<u64> {
    counter_in(&fs::read_to_string("/proc/self/net/netstat").ok()?, name)
}

fn counter_in(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split(' ').position(|column| column == name)?;
    values.split(' ').nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_count_as_far_as_they_are_in_the_range() {
        let range = PortRange {
            low: 100,
            high: 199,
        };
        for (list, count) in [
            ("\n", 0),
            ("150\n", 1),
            ("1-100,198-300,400\n", 3),
            ("1-65535\n", 100),
        ] {
            assert_eq!(within(&reserved_in(list), range), count, "{list}");
        }
    }

    #[test]
    fn a_counter_is_found_by_its_name() {
        let netstat =
            "TcpExt: Sent ListenOverflows ListenDrops\nTcpExt: 1 2 3\nIpExt: A\nIpExt: 9\n";
        assert_eq!(counter_in(netstat, "ListenDrops"), Some(3));
        assert_eq!(counter_in(netstat, "A"), None);
        assert_eq!(counter_in("", "ListenDrops"), None);
    }

    #[test]
    fn addresses_are_of_the_loopback_or_of_a_private_network() {
        assert_eq!(
            addresses(2, false),
            [IpAddr::from([127, 0, 0, 1]), [127, 0, 0, 2].into()]
        );
        let v6 = addresses(2, true);
        assert_eq!(v6[1], "fd00::2".parse::<IpAddr>().unwrap());
    }
}
