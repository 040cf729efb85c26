//! Reads of the `struct task_struct` of the running thread: by a few loads through a typed pointer if the kernel gives
//! one (5.11), else by helpers.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_get_current_uid_gid, generated};
use connect_trace_common::{Field, record::COMM_WORDS};

use crate::{
    params::has,
    sock::{Memory, Typed, Untyped},
};

/// The running thread; `None` if the kernel gives no typed pointer to it.
#[derive(Clone, Copy)]
pub struct Task(Option<Typed>);

impl Task {
    /// Returns the running thread, by the helper `bpf_get_current_task_btf`. Without options, the kernel has the
    /// helper: see [`connect_trace_common::Params::has_options`].
    #[inline(always)]
    pub fn current(has_options: bool) -> Self {
        // SAFETY: a helper without preconditions.
        let task = || Typed(unsafe { generated::bpf_get_current_task_btf() } as *const u8);
        Self((!has_options || has(Field::TaskComm)).then(task))
    }

    /// Returns `comm`, the name of the thread.
    #[inline(always)]
    pub fn comm(self) -> [u64; COMM_WORDS] {
        if let Some(task) = self.0 {
            return [task.read(Field::TaskComm), task.read_at(Field::TaskComm, 8)];
        }
        let mut comm = MaybeUninit::<[u64; COMM_WORDS]>::uninit();
        let size = size_of_val(&comm) as u32;
        // SAFETY: the helper writes all bytes of `comm`, also if it fails.
        unsafe {
            generated::bpf_get_current_comm(comm.as_mut_ptr().cast(), size);
            comm.assume_init()
        }
    }

    /// Returns true if this is a kernel thread: `PF_KTHREAD` in `flags`.
    #[inline(always)]
    pub fn is_of_kernel(self) -> bool {
        const PF_KTHREAD: u32 = 0x0020_0000;
        let flags: u32 = match self.0 {
            Some(task) => task.read(Field::TaskFlags),
            // SAFETY: a helper without preconditions.
            None => Untyped(unsafe { generated::bpf_get_current_task() } as *const u8)
                .read(Field::TaskFlags),
        };
        flags & PF_KTHREAD != 0
    }

    /// Returns the real user id, as the initial user namespace counts.
    #[inline(always)]
    pub fn uid(self) -> u32 {
        match self.0 {
            Some(task) => task.follow(Field::TaskCred).read(Field::CredUid),
            None => bpf_get_current_uid_gid() as u32,
        }
    }
}
