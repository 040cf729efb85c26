//! Calls that the kernel did not hand to a program, by the kernel's own counters.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Program, ProgramFd},
};

use super::return_events::ReturnEvents;

/// `BPF_OBJ_GET_INFO_BY_FD`, linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Byte position of `bpf_prog_info.recursion_misses` (u64), in kernels from 5.12.
const RECURSION_MISSES: usize = 208;

/// The kernel's counts; `None` where this kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Runs of a program that were left out because it was already running on the CPU,
    /// `bpf_prog_info.recursion_misses`.
    pub recursion: Option<u64>,
    /// Returns that found every slot of a kretprobe taken, `kprobe_profile`.
    pub returns: Option<u64>,
}

/// Descriptors of the programs of connect(), of our own: the counts can be read after the programs are
/// detached, when they do not change any more.
pub(super) struct Programs(Vec<ProgramFd>);

impl Programs {
    /// Those that are loaded. What is missed of check_established is seen in its own figures.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self> {
        let mut descriptors = Vec::new();
        for (name, program) in ebpf.programs() {
            let fd = match program {
                _ if name.contains("check_established") => continue,
                Program::FEntry(program) => program.fd(),
                Program::FExit(program) => program.fd(),
                Program::KProbe(program) => program.fd(),
                _ => continue,
            };
            if let Ok(fd) = fd {
                descriptors.push(fd.try_clone().context("duplicate a program's descriptor")?);
            }
        }
        Ok(Self(descriptors))
    }
}

impl Misses {
    /// Reads the counts.
    pub(super) fn read(programs: &Programs, events: Option<&ReturnEvents>) -> Result<Self> {
        let mut recursion = None;
        for program in &programs.0 {
            let misses = recursion_misses(program.as_fd().as_raw_fd())
                .context("read the kernel's counters of a program")?;
            if let Some(misses) = misses {
                *recursion.get_or_insert(0) += misses;
            }
        }
        Ok(Self {
            recursion,
            returns: events.map(ReturnEvents::missed).transpose()?,
        })
    }
}

/// `recursion_misses` of a program; `None` before 5.12. aya's `ProgramInfo` does not show it.
pub(super) fn recursion_misses(program: libc::c_int) -> io::Result<Option<u64>> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = [0_u64; RECURSION_MISSES / 8 + 1];
    let mut attr = Attr {
        fd: program as u32,
        length: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which has room for them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel lowers the length to what it knows.
    Ok((attr.length as usize >= size_of_val(&info)).then_some(info[RECURSION_MISSES / 8]))
}
