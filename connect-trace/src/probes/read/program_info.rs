//! The kernel's information about a program, `struct bpf_prog_info`. aya's `ProgramInfo` needs exclusive access to the
//! program, and lacks the count of skipped runs.

use std::{io, time::Duration};

/// `BPF_OBJ_GET_INFO_BY_FD`, linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// Byte positions in `struct bpf_prog_info`.
const ID: usize = 4;
const RUN_TIME_NS: usize = 192;
const RUN_CNT: usize = 200;
const RECURSION_MISSES: usize = 208;

/// The counters of a loaded program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramInfo {
    /// Id of the program (`id`): unlike a descriptor, never the same for two programs.
    pub(crate) id: u32,
    /// Total time of its runs while statistics were enabled, `run_time_ns`.
    pub(crate) run_time: Duration,
    /// Number of its runs while statistics were enabled, `run_cnt`.
    pub(crate) runs: u64,
    /// Number of runs that were skipped because the program was already running on the CPU; `None` before 5.12.
    pub(crate) recursion_misses: Option<u64>,
}

/// Reads the counters of the program with this descriptor.
pub(crate) fn read(program: libc::c_int) -> io::Result<ProgramInfo> {
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
    // The kernel lowers the length to the part that it knows.
    let knows_misses = attr.length as usize >= size_of_val(&info);
    let id = info[ID / 8].to_ne_bytes();
    Ok(ProgramInfo {
        id: u32::from_ne_bytes([id[4], id[5], id[6], id[7]]),
        run_time: Duration::from_nanos(info[RUN_TIME_NS / 8]),
        runs: info[RUN_CNT / 8],
        recursion_misses: knows_misses.then_some(info[RECURSION_MISSES / 8]),
    })
}
