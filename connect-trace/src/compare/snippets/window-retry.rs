// Linux 6.3 or 6.1.32. Crates: socket2, libc and fastrand. LOW and HIGH are net.ipv4.ip_local_port_range.
use std::{io, mem::size_of_val, net::SocketAddr, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

const IP_LOCAL_PORT_RANGE: i32 = 51;
const LOW: u32 = 9024;
const HIGH: u32 = 65535;
const PORTS: u32 = HIGH - LOW + 1;
const FIRST: u32 = 32;

pub fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    let mut width = FIRST.min(PORTS);
    loop {
        let mut low = LOW + fastrand::u32(..PORTS.div_ceil(width)) * width;
        let high = HIGH.min(low + width - 1);
        // Ports of the parity of the lowest come first, before Linux 6.8: now of one, now of the other.
        if width < PORTS {
            low = high.min(low + fastrand::u32(..2));
        }
        let ports = high << 16 | low;
        // SAFETY: pointer and length are those of `ports`, which outlives the call.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                IP_LOCAL_PORT_RANGE,
                (&raw const ports).cast(),
                size_of_val(&ports) as libc::socklen_t,
            )
        };
        match socket.connect(&to.into()) {
            // If no port of the window is free, a wider one has some.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && width < PORTS => {
                width = PORTS.min(width * 2);
            }
            result => return result.map(|()| socket),
        }
    }
}
