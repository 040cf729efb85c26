// Any kernel. Crates: socket2 and fastrand. LOW and HIGH are net.ipv4.ip_local_port_range; leave out
// net.ipv4.ip_local_reserved_ports.
use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use socket2::{Domain, Socket, Type};

const LOW: u16 = 9024;
const HIGH: u16 = 65535;

static LIST: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let mut ports: Vec<u16> = (LOW..=HIGH).collect();
    fastrand::shuffle(&mut ports);
    ports
});
static TURN: AtomicUsize = AtomicUsize::new(0);

pub fn connect(source: IpAddr, to: SocketAddr) -> io::Result<Socket> {
    let mut failed = 0;
    loop {
        let port = LIST[TURN.fetch_add(1, Ordering::Relaxed) % LIST.len()];
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let bound = socket.bind(&SocketAddr::new(source, port).into());
        match bound.and_then(|()| socket.connect(&to.into())) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
                ) && failed < LIST.len() =>
            {
                failed += 1;
            }
            result => return result.map(|()| socket),
        }
    }
}
