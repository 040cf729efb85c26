//! Processes that hold sockets, by the inode numbers that `/proc/PID/fd` shows.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::connect::Comm;

/// A process that has a descriptor of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) comm: Option<Comm>,
}

/// The processes that hold some sockets.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By inode number. If several processes hold a socket, the one with the lowest id: mostly the parent.
    pub(super) of: HashMap<u32, Owner>,
    /// True if this user may not see the descriptors of other processes.
    pub(super) refused: bool,
}

impl Owners {
    /// Finds the processes.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub(super) fn find(inodes: &HashSet<u32>) -> Result<Self> {
        let mut owners = Self::default();
        if inodes.is_empty() {
            return Ok(owners);
        }
        let entries = fs::read_dir("/proc").context("list the processes in /proc: mount it")?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
                owners.add(pid, &entry.path(), inodes);
            }
        }
        Ok(owners)
    }

    fn add(&mut self, pid: u32, process: &Path, inodes: &HashSet<u32>) {
        let entries = match fs::read_dir(process.join("fd")) {
            Ok(entries) => entries,
            Err(error) => {
                // A process may end meanwhile.
                self.refused |= error.kind() == io::ErrorKind::PermissionDenied;
                return;
            }
        };
        let mut comm = None;
        for entry in entries.flatten() {
            let opened = fs::read_link(entry.path()).ok().and_then(inode);
            let Some(inode) = opened.filter(|inode| inodes.contains(inode)) else {
                continue;
            };
            let owner = Owner {
                pid,
                comm: *comm.get_or_insert_with(|| comm_of(process)),
            };
            let known = self.of.entry(inode).or_insert(owner);
            if owner.pid < known.pid {
                *known = owner;
            }
        }
    }
}

/// Returns the inode number of `socket:[NUMBER]`.
fn inode(link: PathBuf) -> Option<u32> {
    let text = link.to_str()?.strip_prefix("socket:[")?;
    text.strip_suffix(']')?.parse().ok()
}

fn comm_of(process: &Path) -> Option<Comm> {
    let name = fs::read(process.join("comm")).ok()?;
    Some(Comm::of_bytes(name.strip_suffix(b"\n").unwrap_or(&name)))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd as _};

    use super::*;

    #[test]
    fn the_socket_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = inode(link).unwrap();
        let owners = Owners::find(&HashSet::from([inode, u32::MAX])).unwrap();
        assert_eq!(owners.of.len(), 1);
        let owner = owners.of[&inode];
        assert_eq!(owner.pid, std::process::id());
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(owner.comm, Some(Comm::of(comm.trim_end())));
    }

    #[test]
    fn a_link_to_something_else_is_no_socket() {
        for other in ["pipe:[7]", "/etc/passwd", "socket:[x]", "socket:[7"] {
            assert_eq!(inode(other.into()), None, "{other}");
        }
    }
}
