//! A private network namespace for a command: this test program itself, started with `namespace`.

use std::process::Command;
use std::{
    env, ffi::OsString, fs, io, net::UdpSocket, os::fd::AsRawFd as _,
    os::unix::process::CommandExt as _,
};

/// Lowest and highest port of the namespace.
pub const RANGE: [u16; 2] = [20_000, 20_199];

/// Arguments of this program that have it make a namespace.
pub const AS_WE_ARE: &str = "namespace";
pub const AS_NOBODY: &str = "namespace-as-nobody";

/// Returns a command that runs in a new namespace.
pub fn inside(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program has a name"));
    command.arg(AS_WE_ARE).args(arguments);
    command
}

/// Moves this process to a new namespace with a small range of ports, and becomes the command.
pub fn enter_and_run(how: &str, arguments: &[OsString]) -> io::Error {
    if let Err(error) = enter() {
        eprintln!("no namespace: {error}");
        return error;
    }
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]);
    if how == AS_NOBODY {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    command.exec()
}

fn enter() -> io::Result<()> {
    // SAFETY: the calls take numbers.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: as above.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        // SAFETY: as above.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request is an ifreq and outlives the call.
    if unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = RANGE;
    fs::write(
        "/proc/sys/net/ipv4/ip_local_port_range",
        format!("{low} {high}"),
    )?;
    // The clients listen on small ports.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}
