//! The settings of the port search, in the network namespace of this process.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use super::PortRange;

const SYSCTLS: &str = "/proc/sys/net/ipv4";
/// `IP_LOCAL_PORT_RANGE`, linux/in.h; not in the libc crate.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Reads the text of a setting of net.ipv4.
pub(crate) fn setting(name: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(SYSCTLS).join(name))
}

/// The ports from which the kernel chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalPortSettings {
    /// net.ipv4.ip_local_port_range
    pub(crate) range: PortRange,
    /// net.ipv4.ip_local_reserved_ports
    pub(crate) reserved: Vec<PortRange>,
}

impl LocalPortSettings {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names a setting that cannot be read.
    pub(crate) fn of_this_namespace() -> Result<Self, String> {
        let [range, reserved] = ["ip_local_port_range", "ip_local_reserved_ports"];
        Ok(Self {
            range: parsed(range, &setting(range), the_range)?,
            reserved: parsed(reserved, &setting(reserved), reserved_ranges)?,
        })
    }
}

/// The settings that decide whether a port in TIME_WAIT is reused for the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWaitSettings {
    /// net.ipv4.tcp_tw_reuse: 0 for never, 1 for always, 2 for loopback only.
    pub reuse: u32,
    /// net.ipv4.tcp_timestamps, which reuse needs.
    pub timestamps: u32,
    /// net.ipv4.tcp_tw_reuse_delay, or the second that kernels without it wait.
    pub reuse_delay_ms: u32,
}

impl TimeWaitSettings {
    /// Reads the settings.
    ///
    /// # Errors
    /// Names a setting that cannot be read.
    pub(crate) fn of_this_namespace() -> Result<Self, String> {
        /// Delay of kernels that have no setting for it.
        const FIXED_DELAY_MS: u32 = 1_000;
        let read = |name| parsed(name, &setting(name), number);
        let delay = setting("tcp_tw_reuse_delay");
        Ok(Self {
            reuse: read("tcp_tw_reuse")?,
            timestamps: read("tcp_timestamps")?,
            reuse_delay_ms: if is_absent(&delay) {
                FIXED_DELAY_MS
            } else {
                parsed("tcp_tw_reuse_delay", &delay, number)?
            },
        })
    }

    /// Returns whether a port is reused once the delay is over.
    pub(crate) fn reuses(self, is_loopback: bool) -> bool {
        let is_on = match self.reuse {
            0 => false,
            2 => is_loopback,
            _ => true,
        };
        is_on && self.timestamps != 0
    }
}

/// Returns whether a socket accepts the option IP_LOCAL_PORT_RANGE.
pub(crate) fn has_socket_range() -> io::Result<bool> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let no_range: u32 = 0;
    // SAFETY: the option is a u32, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const no_range).cast(),
            size_of_val(&no_range) as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => Ok(false),
        _ => Err(error),
    }
}

/// Returns true if this kernel does not have the setting.
pub(crate) fn is_absent(setting: &io::Result<String>) -> bool {
    matches!(setting, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Parses a setting; returns the reason if that fails.
pub(crate) fn parsed<T>(
    name: &str,
    setting: &io::Result<String>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, String> {
    let text = setting
        .as_ref()
        .map_err(|error| format!("{SYSCTLS}/{name} cannot be read: {error}"))?;
    parse(text).ok_or_else(|| format!("{SYSCTLS}/{name} is not understood: {:?}", text.trim()))
}

/// Parses a number.
pub(crate) fn number(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

/// Parses the range as the kernel prints it: `32768 60999`, with a tab.
pub(crate) fn the_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    checked(first, last.trim())
}

/// Parses the list as the kernel prints it: `8080,9000-9010`.
pub(crate) fn reserved_ranges(text: &str) -> Option<Vec<PortRange>> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let spans = parts.map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        checked(first, last)
    });
    spans.collect()
}

fn checked(first: &str, last: &str) -> Option<PortRange> {
    let span = PortRange {
        low: first.parse().ok()?,
        high: last.parse().ok()?,
    };
    (span.low <= span.high).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_whether_it_has_the_option() {
        has_socket_range().unwrap();
    }
}
