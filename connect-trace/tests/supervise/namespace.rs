//! A private network namespace for a command: this test program itself, started with `namespace`.

use std::{env, ffi::OsString, fs, io, os::unix::process::CommandExt as _, process::Command};

use connect_trace::load::namespace;

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
        eprintln!("no namespace: {error:#}");
        return io::Error::other(error);
    }
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]);
    if how == AS_NOBODY {
        const NOBODY: u32 = 65_534;
        command.uid(NOBODY).gid(NOBODY);
    }
    command.exec()
}

/// Moves this process to a namespace whose ports are those of [`RANGE`].
fn enter() -> anyhow::Result<()> {
    namespace::enter()?;
    let [low, high] = RANGE;
    fs::write(
        "/proc/sys/net/ipv4/ip_local_port_range",
        format!("{low} {high}"),
    )?;
    // The clients listen on small ports.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    Ok(())
}
