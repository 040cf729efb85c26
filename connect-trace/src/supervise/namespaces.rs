//! The port ranges of network namespaces: each has its own, and windows lie within it.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::fd::AsRawFd as _,
    sync::{Mutex, PoisonError},
    thread,
};

use super::socket::Socket;
use crate::connect::PortRange;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ranges by the number of the namespace, read once each; `None` for one that cannot be read.
#[derive(Default)]
pub(super) struct Namespaces(Mutex<HashMap<Option<u64>, Option<PortRange>>>);

impl Namespaces {
    /// Returns the range of the network namespace of a socket that this thread uses.
    pub(super) fn range(&self, socket: &Socket, tid: libc::pid_t) -> Option<PortRange> {
        let cookie = socket.namespace();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known
            .entry(cookie)
            .or_insert_with(|| read_in(cookie, None).or_else(|| read_in(cookie, Some(tid))))
    }
}

/// Reads the range in this process's namespace, or in that of another thread, if it is the namespace with this number.
fn read_in(cookie: Option<u64>, of: Option<libc::pid_t>) -> Option<PortRange> {
    // Only the helper thread changes its namespace.
    let helper = thread::spawn(move || {
        if let Some(tid) = of {
            let namespace = File::open(format!("/proc/{tid}/ns/net")).ok()?;
            // SAFETY: the call takes numbers.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return None;
            }
        }
        let own = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).ok()?;
        if Socket::new(own.into()).namespace() != cookie {
            return None;
        }
        let text = fs::read_to_string(PORT_RANGE).ok()?;
        let mut ports = text.split_whitespace().map(str::parse);
        match (ports.next(), ports.next()) {
            (Some(Ok(low)), Some(Ok(high))) if low <= high => Some(PortRange { low, high }),
            _ => None,
        }
    });
    helper.join().ok().flatten()
}
