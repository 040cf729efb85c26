//! Perf events, through which programs are attached to kprobes and to events of tracefs.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::Result;

use crate::kernel::requirement::MissingRequirement;

// From linux/perf_event.h; the libc crate lacks these constants.
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_COUNT_SW_CPU_CLOCK: u64 = 0;
const PERF_COUNT_SW_DUMMY: u64 = 9;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// The beginning of `struct perf_event_attr`, `PERF_ATTR_SIZE_VER0`; these events need no more.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    rest: [u64; 6],
}

/// Checks that this process may open perf events, by opening one that counts nothing.
///
/// # Errors
/// If it may not: Debian's kernels require CAP_SYS_ADMIN by default.
pub(crate) fn offered() -> Result<()> {
    match open(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY) {
        Ok(_) => Ok(()),
        Err(error) => Err(MissingRequirement::new(
            format!("kprobes need perf_event_open(2), which is refused ({error})"),
            "run as root with all capabilities, or allow processes with CAP_PERFMON to open events (sysctl \
             kernel.perf_event_paranoid=2)",
        )
        .into()),
    }
}

/// Checks that this process may open an event on the clock of a CPU, by opening one that takes no samples.
pub(crate) fn clock_offered() -> io::Result<()> {
    open(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK).map(drop)
}

/// Runs a loaded program at each hit of the tracepoint of this id, until the event is dropped.
pub(crate) fn attach_to_tracepoint(id: u64, program: RawFd) -> io::Result<OwnedFd> {
    let event = open(PERF_TYPE_TRACEPOINT, id)?;
    ioctl(&event, PERF_EVENT_IOC_SET_BPF, program)?;
    ioctl(&event, PERF_EVENT_IOC_ENABLE, 0)?;
    Ok(event)
}

fn open(kind: u32, config: u64) -> io::Result<OwnedFd> {
    let attr = PerfEventAttr {
        kind,
        size: size_of::<PerfEventAttr>() as u32,
        config,
        ..PerfEventAttr::default()
    };
    // The program runs on every CPU, no matter which CPU the event is opened on (as libbpf does it).
    let (any_process, cpu, no_group): (libc::pid_t, libc::c_int, libc::c_int) = (-1, 0, -1);
    // SAFETY: `attr` is a valid perf_event_attr of the size that it names.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            any_process,
            cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nothing else owns it; the kernel's descriptors are ints.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn ioctl(event: &OwnedFd, request: libc::Ioctl, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: both requests take an int by value.
    match unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
