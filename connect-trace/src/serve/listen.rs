//! The addresses that the service listens on, and their sockets.

use std::{
    fmt, fs, io,
    net::TcpListener as StdTcpListener,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::{UnixListener as StdUnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use tokio::net::{TcpListener, UnixListener};

use crate::{options::address::Address, term::printable::printable};

/// Permissions of a Unix socket: for the user and the group of the service.
const MODE: u32 = 0o660;

/// A socket that is listened on.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        /// The path, if the service created the socket.
        own: Option<PathBuf>,
    },
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(formatter, "http://{address}"),
                Err(_) => formatter.write_str("a TCP socket"),
            },
            Self::Unix { socket, .. } => {
                let address = socket.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => write!(formatter, "unix:{}", printable(path)),
                    None => formatter.write_str("a Unix socket"),
                }
            }
        }
    }
}

impl Listener {
    /// Returns the path of a Unix socket that the service created, and removes at its end.
    pub(super) fn own_path(&self) -> Option<&Path> {
        match self {
            Self::Unix {
                own: Some(path), ..
            } => Some(path),
            _ => None,
        }
    }
}

/// The sockets of the service. Unix sockets that it created are removed at the end.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) all: Vec<Listener>,
}

impl Listeners {
    /// Opens these addresses and takes the sockets that systemd passed; without either, opens the default if it is wanted.
    ///
    /// # Errors
    /// If an address is taken or may not be used.
    pub(super) fn open(addresses: &[Address], with_default: bool) -> Result<Self> {
        let passed = sd_notify::listen_fds().context("take the sockets that systemd passes")?;
        let mut all: Vec<Listener> = passed.map(taken).collect::<Result<_>>()?;
        let default = [Address::of_service()];
        let addresses = match (addresses, all.is_empty()) {
            ([], true) if with_default => &default[..],
            (addresses, _) => addresses,
        };
        for address in addresses {
            let listener = open(address).with_context(|| format!("listen on {address}"))?;
            all.push(listener);
        }
        Ok(Self { all })
    }
}

/// Returns the listener of a socket that systemd passed.
fn taken(fd: RawFd) -> Result<Listener> {
    // SAFETY: systemd passes each descriptor once, and nothing else uses it.
    let socket = socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    ensure!(
        socket.is_listener().unwrap_or(false),
        "systemd passed descriptor {fd}, which is not a listening socket"
    );
    socket.set_nonblocking(true)?;
    let is_unix = socket.local_addr()?.is_unix();
    Ok(if is_unix {
        Listener::Unix {
            socket: UnixListener::from_std(StdUnixListener::from(OwnedFd::from(socket)))?,
            own: None,
        }
    } else {
        Listener::Tcp(TcpListener::from_std(StdTcpListener::from(OwnedFd::from(
            socket,
        )))?)
    })
}

fn open(address: &Address) -> io::Result<Listener> {
    match address {
        Address::Tcp(address) => {
            let listener = StdTcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Listener::Tcp)
        }
        Address::Unix(path) => {
            remove_unused(path)?;
            let socket = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
            Ok(Listener::Unix {
                socket,
                own: Some(path.clone()),
            })
        }
    }
}

/// Removes the socket of a service that was killed: one on which nobody listens.
fn remove_unused(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).err().is_some_and(refused) {
        fs::remove_file(path)?;
    }
    Ok(())
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = self.own_path()
            && let Err(error) = fs::remove_file(path)
        {
            log::debug!("remove {}: {error}", printable(path));
        }
    }
}
