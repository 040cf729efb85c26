// Linux 6.8. Crates: socket2 and libc. A kernel that refuses the option searches as it does without.
use std::{io, mem::size_of_val, net::SocketAddr, os::fd::AsRawFd};

use socket2::{Domain, Socket, Type};

const IP_LOCAL_PORT_RANGE: i32 = 51;

pub fn connect(to: SocketAddr) -> io::Result<Socket> {
    // Highest port << 16 | lowest; the kernel cuts it to net.ipv4.ip_local_port_range.
    let all_ports: u32 = 65535 << 16 | 1;
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    // SAFETY: pointer and length are those of `all_ports`, which outlives the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const all_ports).cast(),
            size_of_val(&all_ports) as libc::socklen_t,
        )
    };
    socket.connect(&to.into())?;
    Ok(socket)
}
