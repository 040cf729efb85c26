//! The port ranges of network namespaces: each has its own, and windows lie within it.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Mutex, PoisonError},
};

use super::socket::Socket;
use crate::{connect::PortRange, load, sockets::namespace};

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
    let read = move || {
        let own = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).ok()?;
        if Socket::new(own.into()).namespace() != cookie {
            return None;
        }
        load::namespace::port_range().ok()
    };
    match of {
        None => read(),
        Some(tid) => {
            let theirs = File::open(format!("/proc/{tid}/ns/net")).ok()?;
            namespace::within(&theirs, read).ok().flatten()
        }
    }
}
