// Linux 4.2. Crates: socket2 and libc.
use std::{
    io,
    mem::size_of_val,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::atomic::{AtomicUsize, Ordering},
};

use socket2::{Domain, Socket, Type};

static TURN: AtomicUsize = AtomicUsize::new(0);

/// `sources` are addresses of this machine.
pub fn connect(sources: &[IpAddr], to: SocketAddr) -> io::Result<Socket> {
    let source = sources[TURN.fetch_add(1, Ordering::Relaxed) % sources.len()];
    let on: libc::c_int = 1;
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // SAFETY: pointer and length are those of `on`, which outlives the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket)
}
